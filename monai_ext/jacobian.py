# SPDX-License-Identifier: Apache-2.0
"""How much room a displacement leaves around each voxel."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

SMALLEST_DETERMINANT = 1e-9  # in logarithms a folded voxel counts like one that is nearly flat
VOXELS_AT_ONCE = 1 << 18


def field_determinant(ddf: Tensor) -> Tensor:
    """Return the determinant of the Jacobian of ``x -> x + d(x)`` at each voxel.

    Forward differences; the last voxel of an axis has those of the one before it. Computed in double precision, a slab
    of the first axis after the other, which bounds the memory.

    Args:
        ddf: (axes, *spatial), displacement in voxels along the axes in their order; 2 or 3 axes.

    Returns:
        (*spatial), float64: 1 keeps its volume, 0 and less is a fold.

    Raises:
        ValueError: the displacement has another form, or an axis of one voxel.

    Example:
        >>> stretched = torch.arange(4.0).expand(2, 4, 4) * torch.tensor([0.0, 0.5]).reshape(2, 1, 1)
        >>> field_determinant(stretched).unique().tolist()
        [1.5]
    """
    if len(ddf) not in (2, 3) or ddf.ndim != len(ddf) + 1:
        raise ValueError(f"the displacement must be (axes, *spatial) with 2 or 3 axes, got {tuple(ddf.shape)}.")
    if min(ddf.shape[1:]) < 2:
        raise ValueError(f"each axis must have at least 2 voxels, got {tuple(ddf.shape[1:])}.")
    determinant = torch.empty(ddf.shape[1:], dtype=torch.float64, device=ddf.device)
    depth = max(1, VOXELS_AT_ONCE // prod(ddf.shape[2:]))
    for first in range(0, ddf.shape[1], depth):
        slab = slice(first, min(first + depth, ddf.shape[1]))
        determinant[slab] = _determinant([_column(ddf, axis, slab) for axis in range(len(ddf))])
    return determinant


def _column(ddf: Tensor, axis: int, slab: slice) -> Tensor:
    """Return the derivative of ``x + d(x)`` along an axis for a slab of the first one, (axes, *slab)."""
    side = ddf.shape[axis + 1]
    here = torch.arange(side, device=ddf.device).clamp(max=side - 2)
    if axis == 0:
        column = ddf[:, here[slab] + 1].double() - ddf[:, here[slab]].double()
    else:
        part = ddf[:, slab].double()
        column = part.index_select(axis + 1, here + 1) - part.index_select(axis + 1, here)
    column[axis] += 1
    return column


def _determinant(columns: list[Tensor]) -> Tensor:
    """Return determinants from their columns (axes, ...); written out, many times faster than factorising each."""
    if len(columns) == 2:
        return columns[0][0] * columns[1][1] - columns[0][1] * columns[1][0]
    return (columns[0] * torch.linalg.cross(columns[1], columns[2], dim=0)).sum(dim=0)
