# SPDX-License-Identifier: Apache-2.0
"""Registering two scans with the embeddings of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.matching import VolumeEmbedding
from monai_ext.registration import SAMAffine, SAMCoarse, TransformChain, WorldDisplacement, optimise_instance
from monai_ext.registration.folding import measure_folding
from monai_ext.registration.instance_optimisation import OptimisedField
from monai_ext.registration.smoothly_refined import smoothly_refined
from monai_ext.shipping._pair_embeddings import PairEmbeddings
from monai_ext.shipping.body_mask import body_mask
from monai_ext.shipping.bundle_deformation import BundleDeformation
from monai_ext.shipping.bundle_matching import BundleMatching
from monai_ext.shipping.registered_pair import PairPaths, RegisteredPair, RegisteredStep
from monai_ext.shipping.registration_knobs import RegistrationKnobs
from monai_ext.shipping.step_costs import StepCosts


class BundleRegistration:
    """Takes the steps of a registration one after the other.

    - ``affine``: `SAMAffine`;
    - ``coarse``: `SAMCoarse`, on the moving scan brought close by the affine map and embedded again; its field is made
      smooth between the nodes, so that its inverse can be stored;
    - ``deform``: a trained network displaces what there is;
    - ``instance``: `optimise_instance`, which starts from what there is.

    Args:
        matching: network, preprocessing and embedder of a bundle.
        knobs: which steps, and their arguments.
        body_threshold: see `body_mask`.
        reembed: embed the moving scan again after the affine map; False moves its embeddings, for ``coarse``.
        costs: where to note what each step takes.
        deformation: the network of ``deform``.

    Raises:
        InputError: an argument is out of its range.
        ValueError: the step ``deform`` without its network.

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
        deformation: BundleDeformation | None = None,
    ) -> None:
        if "deform" in knobs.steps and deformation is None:
            raise ValueError("the step deform needs a deformation.")
        self.matching = matching
        self.knobs = knobs
        self.body_threshold = body_threshold
        self.reembed = reembed
        self.costs = costs or StepCosts()
        self.deformation = deformation
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
        embedded = PairEmbeddings(self.matching, pair, paths, self.costs)
        for step in self.knobs.steps:
            if step == "affine":
                pair.steps.append(self._affine_step(embedded, pair, moving_body))
            elif step == "coarse":
                pair.steps.append(self._coarse_step(embedded, pair))
            elif step == "deform":
                pair.steps.append(self._deform_step(pair, paths))
            else:
                pair.steps.append(self._instance_step(embedded, pair))

    def _affine_step(self, embedded: PairEmbeddings, pair: RegisteredPair, moving_body: Tensor) -> RegisteredStep:
        fixed, moving = embedded.fixed, embedded.moving
        with self.costs.of("affine"):
            _require_multiple("affine", self.affine.stride, fixed)
            found = self.affine(fixed, moving, pair.body, moving_body)
        return RegisteredStep("affine", TransformChain([found.matrix]), found.summary())

    def _coarse_step(self, embedded: PairEmbeddings, pair: RegisteredPair) -> RegisteredStep:
        fixed = embedded.fixed
        moved = (embedded.warped if self.reembed else embedded.relocated)(pair.matrix)
        with self.costs.of("coarse"):
            _require_multiple("coarse", self.coarse.stride, fixed)
            found = self.coarse(fixed, lambda _: moved, pair.matrix, pair.body)
            field = _continued(smoothly_refined(found.field))
            residuals = (field.at(found.source) - found.moved).norm(dim=1)
            numbers = {k: v for k, v in found._replace(residuals=residuals).summary().items() if k not in _FOLDING}
            folding = measure_folding(WorldDisplacement.sampled(field, pair.grid), pair.body)
        return RegisteredStep("coarse", TransformChain([field, pair.matrix]), numbers, folding)

    def _deform_step(self, pair: RegisteredPair, paths: PairPaths) -> RegisteredStep:
        """Displace by the network first, and go on where that leads with what there is."""
        if self.deformation is None:
            raise ValueError("the step deform needs a deformation.")
        with self.costs.of("deform"):
            found = _continued(self.deformation(paths.fixed, paths.moving, pair.transform))
            moved = WorldDisplacement.sampled(found, pair.grid).values[:, pair.body].norm(dim=0)
            chain = TransformChain([found] if pair.field is None else [found, pair.field])
            field = WorldDisplacement.sampled(chain, pair.grid)
            folding = measure_folding(field, pair.body)
        numbers = {"displaced_mean_mm": round(float(moved.mean()), 3), "displaced_max_mm": round(float(moved.max()), 3)}
        return RegisteredStep("deform", TransformChain([_continued(field), pair.matrix]), numbers, folding)

    def _instance_step(self, embedded: PairEmbeddings, pair: RegisteredPair) -> RegisteredStep:
        """Improve the displacement; both embeddings are on the fixed scan's grid."""
        fixed, warped = embedded.fixed, embedded.warped(pair.matrix)
        with self.costs.of("instance"):
            found = self._optimised(fixed, warped, pair)
            field = WorldDisplacement.from_voxels(found.ddf[0].cpu(), pair.grid)
            folding = measure_folding(field, pair.body)
        numbers = {
            "iterations": len(found.costs) - 1,
            "cost_first": round(found.costs[0], 5),
            "cost_least": round(min(found.costs), 5),
        }
        return RegisteredStep("instance", TransformChain([_continued(field), pair.matrix]), numbers, folding)

    def _optimised(self, fixed: VolumeEmbedding, warped: VolumeEmbedding, pair: RegisteredPair) -> OptimisedField:
        initial = None
        if pair.field is not None:
            initial = WorldDisplacement.sampled(pair.field, pair.grid).to_voxels()[None].to(fixed.device, torch.float32)
        here, there = ({"local": x.fine[0][None], "global": x.coarse[None]} for x in (fixed, warped))
        arguments: dict[str, Any] = {**self.knobs.arguments["instance"], "size": fixed.size, "initial": initial}
        arguments |= {"local_stride": fixed.grid.stride, "global_stride": fixed.coarse_grid.stride}
        try:
            return optimise_instance(here, there, **arguments)
        except ValueError as error:
            raise InputError(f"step instance: {error}") from error


_FOLDING = ("folding_percent", "sd_log_j")  # all steps have them


def _made(step: str, kind: Callable[..., Any], arguments: Any) -> Any:
    try:
        return kind(**arguments.get(step, {}))
    except ValueError as error:
        raise InputError(f"step {step}: {error}") from error


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
