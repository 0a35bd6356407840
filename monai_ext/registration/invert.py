# SPDX-License-Identifier: Apache-2.0
"""The inverse of a chain of maps, as a chain that can be stored."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from monai_ext.registration.chain import TransformChain
from monai_ext.registration.displacement import WorldDisplacement
from monai_ext.registration.world_grid import WorldGrid

MOST_VOXELS = 1 << 24  # of a refined inverse: 400 MB
NEARLY_HALF = 0.49  # of a voxel; on a face a point would be neither inside nor outside


class InverseTransform(NamedTuple):
    """The inverse of a chain, and how well it undoes it.

    Attributes:
        transform: moving -> fixed where the chain is fixed -> moving.
        residual_mean_mm: mean distance between points and where forward and inverse lead them.
        residual_max_mm: the largest one.
    """

    transform: TransformChain
    residual_mean_mm: float
    residual_max_mm: float


def invert(
    transform: TransformChain, grid: WorldGrid, mask: Tensor | None = None, tolerance_mm: float = 0.1
) -> InverseTransform:
    """Invert a chain, each of its fields by fixed-point iteration on a grid.

    The inverse of a field is stored on the given grid with a margin of the largest displacement around it, so that
    a point that the field moves out of the grid finds back. Between its voxels the inverse is linear, which the
    inverse of a linear field is not: where the residual exceeds the tolerance, the grid is refined, as long as the
    result stays below 400 MB. The residual is measured and returned in any case; where the forward map folds it stays
    large.

    Args:
        transform: the chain, fixed -> moving.
        grid: of the fixed image.
        mask: bool (*grid.shape), where the residual is measured, None everywhere: at the voxels and halfway between
            them, where the interpolation is worst.
        tolerance_mm: the largest residual that is good enough.

    Raises:
        ValueError: a mask of another shape, or an empty one.

    Example:
        >>> grid = WorldGrid((4, 4, 4), torch.eye(4))
        >>> shift = WorldDisplacement(torch.full((3, 4, 4, 4), 0.25), grid)
        >>> inverse = invert(TransformChain([shift, torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))]), grid)
        >>> inverse.transform(torch.tensor([[2.5, 2.5, 2.5]])).tolist(), inverse.residual_max_mm
        ([[1.0, 1.0, 1.0]], 0.0)
    """
    if mask is not None and (mask.shape != grid.shape or not mask.any()):
        raise ValueError(f"mask must be {grid.shape} and not empty, got {tuple(mask.shape)}, {int(mask.sum())} voxels.")
    finer = grid
    while True:
        inverse = TransformChain([
            _inverse_field(part, finer) if isinstance(part, WorldDisplacement) else torch.linalg.inv(part)
            for part in reversed(transform.parts)
        ])  # fmt: skip
        mean, largest = _residual(transform, inverse, grid, mask)
        finer = finer.refined()
        if largest <= tolerance_mm or len(finer) > MOST_VOXELS:
            return InverseTransform(inverse, mean, largest)


def _residual(
    transform: TransformChain, inverse: TransformChain, grid: WorldGrid, mask: Tensor | None
) -> tuple[float, float]:
    """Return mean and maximum of the distance between points and where both lead them."""
    total, largest, count = 0.0, 0.0, 0
    half = NEARLY_HALF * grid.affine[:3, :3].sum(dim=1)
    for slab in grid.slabs():
        points = grid.points(slab)
        if mask is not None:
            points = points[mask[slab].flatten().cpu()]
        for start in (points, points - half):
            wrong = (inverse(transform(start)).cpu() - start).norm(dim=1)
            total, count = total + float(wrong.sum()), count + len(wrong)
            largest = max(largest, float(wrong.max()) if len(wrong) else 0.0)
    return total / count, largest


def _inverse_field(field: WorldDisplacement, grid: WorldGrid) -> WorldDisplacement:
    margin = float(field.values.norm(dim=0).max())
    # beyond its border the field is continued: a jump there would spoil the inverse of the last voxel inside
    inverse = WorldDisplacement.sampled(partial(field.source_of, continued=True), grid.padded(margin))
    return inverse.to(field.values.device)
