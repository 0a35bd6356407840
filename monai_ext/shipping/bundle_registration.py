# SPDX-License-Identifier: Apache-2.0
"""Registering two scans with the embeddings of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.matching import VolumeEmbedding
from monai_ext.registration import (
    SAMAffine,
    SAMCoarse,
    TransformChain,
    WorldDisplacement,
    WorldGrid,
    relocated,
    resample,
)
from monai_ext.registration.folding import Folding, measure_folding
from monai_ext.registration.instance_optimisation import optimise_instance
from monai_ext.registration.smoothly_refined import smoothly_refined
from monai_ext.scan_files import stem_of
from monai_ext.shipping.body_mask import body_mask
from monai_ext.shipping.bundle_matching import BundleMatching
from monai_ext.shipping.registration_knobs import RegistrationKnobs
from monai_ext.shipping.step_costs import StepCosts

BEFORE = "before"


class PairPaths(NamedTuple):
    """Two scans and where their bodies are, if files say it."""

    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None


class RegisteredStep(NamedTuple):
    """What a step has found.

    Attributes:
        name: of the step; the first of all is ``before``, which moves nothing.
        transform: from the fixed to the moving scan's RAS mm, the steps before it included.
        numbers: on which matches it rests, and how well it fits them.
        folding: of the displacement inside the body; an affine map has none.
    """

    name: str
    transform: TransformChain
    numbers: dict[str, Any]
    folding: Folding = Folding(0.0, 0.0)


@dataclass
class RegisteredPair:
    """Two scans as the network gets them, the body of the fixed one, and what each step has found."""

    fixed: MetaTensor
    moving: MetaTensor
    body: Tensor
    steps: list[RegisteredStep] = field(default_factory=lambda: [RegisteredStep(BEFORE, TransformChain([]), {})])

    @property
    def grid(self) -> WorldGrid:
        """Where the fixed scan's voxels are, as the network gets them."""
        return WorldGrid.of(self.fixed)

    @property
    def transform(self) -> TransformChain:
        """What the last step has found."""
        return self.steps[-1].transform

    @property
    def matrix(self) -> Tensor:
        """The affine part (4, 4)."""
        found = [part for part in self.transform.parts if not isinstance(part, WorldDisplacement)]
        return found[-1] if found else torch.eye(4, dtype=torch.float64)

    @property
    def field(self) -> WorldDisplacement | None:
        """The displacement that comes before the affine map."""
        first = self.transform.parts[0] if self.transform.parts else None
        return first if isinstance(first, WorldDisplacement) else None


class BundleRegistration:
    """Takes the steps of a registration one after the other.

    - ``affine``: `SAMAffine`;
    - ``coarse``: `SAMCoarse`, on the moving scan brought close by the affine map and embedded again; its field is made
      smooth between the nodes, so that its inverse can be stored;
    - ``instance``: `optimise_instance`, which starts from what there is.

    Args:
        matching: network, preprocessing and embedder of a bundle.
        knobs: which steps, and their arguments.
        body_threshold: see `body_mask`.
        reembed: embed the moving scan again after the affine map; False moves its embeddings, for ``coarse``.

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> register = BundleRegistration(matching, registration_knobs(["affine"], {}))  # doctest: +SKIP
        >>> register(PairPaths(Path("a.nii.gz"), Path("b.nii.gz"))).matrix  # doctest: +SKIP
    """

    def __init__(
        self,
        matching: BundleMatching,
        knobs: RegistrationKnobs,
        body_threshold: float | None = None,
        reembed: bool = True,
        costs: StepCosts | None = None,
    ) -> None:
        self.matching = matching
        self.knobs = knobs
        self.body_threshold = body_threshold
        self.reembed = reembed
        self.costs = costs or StepCosts()
        made = {
            step: _made(step, kind, knobs.arguments) for step, kind in (("affine", SAMAffine), ("coarse", SAMCoarse))
        }
        self.affine: SAMAffine = made["affine"]
        self.coarse: SAMCoarse = made["coarse"]

    def __call__(self, paths: PairPaths) -> RegisteredPair:
        """Register two scans.

        Raises:
            InputError: a scan cannot be read, or too little matches; the message names both scans.
        """
        with self.costs.of("read"):
            fixed, moving = (
                self.matching.preprocessing({"image": str(p)})["image"] for p in (paths.fixed, paths.moving)
            )
            for path, scan in ((paths.fixed, fixed), (paths.moving, moving)):
                if scan.ndim != 4:
                    raise InputError(f"{path}: is a picture; registration needs volumes.")
            body = body_mask(fixed, paths.fixed, self.body_threshold, paths.fixed_mask)
            moving_body = body_mask(moving, paths.moving, self.body_threshold, paths.moving_mask)
        pair = RegisteredPair(fixed, moving, body)
        try:
            self._take_steps(pair, moving_body, paths)
        except InputError as error:
            error.args = (f"{paths.moving} to {paths.fixed}: {error}",)  # the deepest error is what is shown
            raise
        return pair

    def _take_steps(self, pair: RegisteredPair, moving_body: Tensor, paths: PairPaths) -> None:
        with self.costs.of("embed"):
            fixed = self._embed(pair.fixed, paths.fixed)
            moving = self._embed(pair.moving, paths.moving)
        warped: list[VolumeEmbedding] = []  # once for all steps after the affine map

        def embed_warped(matrix: Tensor) -> VolumeEmbedding:
            if not warped:
                with self.costs.of("embed again"):
                    warped.append(self._embed(_warped(pair, matrix), paths.moving))
            return warped[0]

        for step in self.knobs.steps:
            if step != "affine" and (step == "instance" or self.reembed):
                embed_warped(pair.matrix)
            with self.costs.of(step):
                if step == "affine":
                    pair.steps.append(self._affine_step(fixed, moving, pair.body, moving_body))
                elif step == "coarse":
                    embed = embed_warped if self.reembed else (lambda matrix: relocated(moving, matrix))
                    pair.steps.append(self._coarse_step(fixed, embed, pair))
                else:
                    pair.steps.append(self._instance_step(fixed, warped[0], pair))

    def _affine_step(
        self, fixed: VolumeEmbedding, moving: VolumeEmbedding, body: Tensor, moving_body: Tensor
    ) -> RegisteredStep:
        _require_multiple("affine", self.affine.stride, fixed)
        found = self.affine(fixed, moving, body, moving_body)
        return RegisteredStep("affine", TransformChain([found.matrix]), found.summary())

    def _coarse_step(
        self, fixed: VolumeEmbedding, embed: Callable[[Tensor], VolumeEmbedding], pair: RegisteredPair
    ) -> RegisteredStep:
        _require_multiple("coarse", self.coarse.stride, fixed)
        found = self.coarse(fixed, embed, pair.matrix, pair.body)
        field = _continued(smoothly_refined(found.field))
        residuals = (field.at(found.source) - found.moved).norm(dim=1)
        numbers = {k: v for k, v in found._replace(residuals=residuals).summary().items() if k not in _FOLDING}
        folding = measure_folding(WorldDisplacement.sampled(field, pair.grid), pair.body)
        return RegisteredStep("coarse", TransformChain([field, pair.matrix]), numbers, folding)

    def _instance_step(self, fixed: VolumeEmbedding, warped: VolumeEmbedding, pair: RegisteredPair) -> RegisteredStep:
        """Improve the displacement; both embeddings are on the fixed scan's grid."""
        initial = None
        if pair.field is not None:
            initial = WorldDisplacement.sampled(pair.field, pair.grid).to_voxels()[None].to(fixed.device, torch.float32)
        here, there = ({"local": x.fine[0][None], "global": x.coarse[None]} for x in (fixed, warped))
        arguments: dict[str, Any] = {**self.knobs.arguments["instance"], "size": fixed.size, "initial": initial}
        arguments |= {"local_stride": fixed.grid.stride, "global_stride": fixed.coarse_grid.stride}
        try:
            found = optimise_instance(here, there, **arguments)
        except ValueError as error:
            raise InputError(f"step instance: {error}") from error
        field = WorldDisplacement.from_voxels(found.ddf[0].cpu(), pair.grid)
        numbers = {
            "iterations": len(found.costs) - 1,
            "cost_first": round(found.costs[0], 5),
            "cost_least": round(min(found.costs), 5),
        }
        folding = measure_folding(field, pair.body)
        return RegisteredStep("instance", TransformChain([_continued(field), pair.matrix]), numbers, folding)

    def _embed(self, scan: MetaTensor, path: Path) -> VolumeEmbedding:
        return self.matching.embedder(scan, self.matching.network, case=stem_of(path))


_FOLDING = ("folding_percent", "sd_log_j")  # all steps have them


def _made(step: str, kind: Callable[..., Any], arguments: Any) -> Any:
    try:
        return kind(**arguments.get(step, {}))
    except ValueError as error:
        raise InputError(f"step {step}: {error}") from error


def _warped(pair: RegisteredPair, matrix: Tensor) -> MetaTensor:
    """Return the moving scan on the fixed one's grid, as the network gets it."""
    outside = float(pair.moving.min())
    grids = WorldGrid.of(pair.moving), pair.grid
    values = resample(pair.moving, grids[0], TransformChain([matrix]), grids[1], "linear", outside)
    return MetaTensor(values, affine=pair.grid.affine)


def _continued(field: WorldDisplacement) -> WorldDisplacement:
    """Let the outermost displacements go on for a voxel: the scan's own grid may reach a little further."""
    grid = field.grid.padded(max(field.grid.spacing))
    more = [(new - old) // 2 for new, old in zip(grid.shape, field.grid.shape, strict=True)]
    ends = [side for margin in reversed(more) for side in (margin, margin)]
    return WorldDisplacement(F.pad(field.values[None], ends, mode="replicate")[0], grid)


def _require_multiple(step: str, stride: int, fixed: VolumeEmbedding) -> None:
    if stride < 1 or any(stride % side for side in fixed.grid.stride):
        raise InputError(
            f"stride of step {step} must be a multiple of {max(fixed.grid.stride)}, the voxels of a cell, got {stride}."
        )
