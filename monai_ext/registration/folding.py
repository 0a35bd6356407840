# SPDX-License-Identifier: Apache-2.0
"""How a displacement field changes volumes, and whether it folds space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_ext.registration.displacement import WorldDisplacement

SMALLEST_DETERMINANT = 1e-9  # a folded voxel counts in the spread of logarithms like one that is nearly flat


class Folding(NamedTuple):
    """How regular a field is.

    Attributes:
        percent: of the voxels, those with a Jacobian determinant of zero or less.
        sd_log_j: standard deviation of the logarithm of the determinant.
    """

    percent: float
    sd_log_j: float


def jacobian_determinant(field: WorldDisplacement) -> Tensor:
    """Return the determinant (*grid.shape) of the Jacobian of ``x -> x + d(x)`` in the world.

    Forward differences; the last voxel of an axis has those of the one before it. Neither the spacing nor the
    direction of the grid matters: 1 is a volume that stays as large as it is.

    Raises:
        ValueError: an axis of a single voxel, which has no differences.

    Example:
        >>> from monai_ext.registration.world_grid import WorldGrid
        >>> grid = WorldGrid((3, 3, 3), torch.diag(torch.tensor([-2.0, 1.0, 3.0, 1.0])))
        >>> stretched = WorldDisplacement.sampled(lambda x: x * torch.tensor([1.5, 1.0, 2.0]), grid)
        >>> jacobian_determinant(stretched).unique().tolist()
        [3.0]
    """
    if min(field.grid.shape) < 2:
        raise ValueError(f"every axis must have at least 2 voxels, got {field.grid.shape}.")
    inverse = torch.linalg.inv(field.grid.affine[:3, :3]).to(field.values.device)
    determinant = torch.empty(field.grid.shape, dtype=torch.float64, device=field.values.device)
    for slab in field.grid.slabs():
        by_voxel = torch.stack([_differences(field.values, axis, slab) for axis in range(3)], dim=-1)
        by_mm = torch.einsum("ixyzj,jk->xyzik", by_voxel, inverse)
        determinant[slab] = _det(by_mm + torch.eye(3, dtype=torch.float64, device=by_mm.device))
    return determinant


def measure_folding(field: WorldDisplacement, mask: Tensor | None = None) -> Folding:
    """Count where the field folds inside a mask (bool, *grid.shape; None: everywhere).

    Raises:
        ValueError: a mask of another shape, or an empty one.
    """
    if mask is not None and (mask.shape != field.grid.shape or not mask.any()):
        raise ValueError(f"mask must be {field.grid.shape} and not empty, got {tuple(mask.shape)}.")
    determinant = jacobian_determinant(field)
    inside = determinant.flatten() if mask is None else determinant[mask.to(determinant.device)]
    logarithm = inside.clamp(min=SMALLEST_DETERMINANT).log()
    return Folding(100 * float((inside <= 0).double().mean()), float(logarithm.std(correction=0)))


def _differences(values: Tensor, axis: int, slab: slice) -> Tensor:
    """Return d at the next voxel minus d here, for a slab of the first axis, (3, *slab)."""
    side = values.shape[axis + 1]
    here = torch.arange(side, device=values.device).clamp(max=side - 2)
    if axis == 0:
        return values[:, here[slab] + 1] - values[:, here[slab]]
    part = values[:, slab]
    return part.index_select(axis + 1, here + 1) - part.index_select(axis + 1, here)


def _det(matrices: Tensor) -> Tensor:
    """Return determinants (...) of (..., 3, 3); written out, it is many times faster than by factorising each."""
    a, b, c = matrices.unbind(dim=-2)
    return (a * torch.linalg.cross(b, c, dim=-1)).sum(dim=-1)
