# SPDX-License-Identifier: Apache-2.0
"""The embeddings that the steps of a registration share."""

from __future__ import annotations

from functools import cached_property

from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from monai_ext.matching import VolumeEmbedding
from monai_ext.registration import TransformChain, WorldGrid, relocated, resample
from monai_ext.scan_files import stem_of
from monai_ext.shipping.bundle_matching import BundleMatching
from monai_ext.shipping.registered_pair import PairPaths, RegisteredPair
from monai_ext.shipping.step_costs import StepCosts


class PairEmbeddings:
    """Embeddings of both scans of a pair, each made when a step first asks for it, and its cost noted.

    Args:
        matching: network and embedder.
        pair: the scans.
        paths: their names.
        costs: where to note.
    """

    def __init__(self, matching: BundleMatching, pair: RegisteredPair, paths: PairPaths, costs: StepCosts) -> None:
        self.matching = matching
        self.pair = pair
        self.paths = paths
        self.costs = costs
        self._warped: VolumeEmbedding | None = None

    @cached_property
    def fixed(self) -> VolumeEmbedding:
        """Of the fixed scan."""
        with self.costs.of("embed"):
            return self._embed(self.pair.fixed, self.paths.fixed.name)

    @cached_property
    def moving(self) -> VolumeEmbedding:
        """Of the moving scan in its own grid."""
        with self.costs.of("embed"):
            return self._embed(self.pair.moving, self.paths.moving.name)

    def warped(self, matrix: Tensor) -> VolumeEmbedding:
        """Of the moving scan brought to the fixed one's grid by the affine map, the only one that a pair has."""
        if self._warped is None:
            with self.costs.of("embed again"):
                self._warped = self._embed(_warped(self.pair, matrix), self.paths.moving.name)
        return self._warped

    def relocated(self, matrix: Tensor) -> VolumeEmbedding:
        """Of the moving scan in its own grid, as if it lay where the affine map brings it."""
        return relocated(self.moving, matrix)

    def _embed(self, scan: MetaTensor, name: str) -> VolumeEmbedding:
        return self.matching.embedder(scan, self.matching.network, case=stem_of(name))


def _warped(pair: RegisteredPair, matrix: Tensor) -> MetaTensor:
    """Return the moving scan on the fixed one's grid, as the network gets it."""
    outside = float(pair.moving.min())
    grids = WorldGrid.of(pair.moving), pair.grid
    values = resample(pair.moving, grids[0], TransformChain([matrix]), grids[1], "linear", outside)
    return MetaTensor(values, affine=pair.grid.affine)
