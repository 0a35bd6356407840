# SPDX-License-Identifier: Apache-2.0
"""Matches of a regular grid of cells inside the body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from monai_ext.matching import PointMatcher, VolumeEmbedding


class GridMatches(NamedTuple):
    """Pairs of places that match.

    Attributes:
        source: (N, 3) RAS mm in the fixed volume.
        target: (N, 3) RAS mm in the moving volume.
        score: (N,).
        asked: how many points of the grid lie inside the body.
    """

    source: Tensor
    target: Tensor
    score: Tensor
    asked: int


def match_grid(
    fixed: VolumeEmbedding,
    moving: VolumeEmbedding,
    fixed_mask: Tensor | None,
    moving_mask: Tensor | None,
    matcher: PointMatcher,
    stride: int,
) -> GridMatches:
    """Match every cell of a grid and keep what is accepted and lies inside both masks.

    Args:
        fixed: where the grid lies.
        moving: where matches are searched.
        fixed_mask: bool (*fixed.size), None for all of it.
        moving_mask: bool (*moving.size), None for all of it.
        matcher: says which matches are accepted.
        stride: voxels between the points, a multiple of those a cell.

    Raises:
        ValueError: a mask of another shape, a stride that is no multiple, or volumes that are not of three axes.
    """
    if len(fixed.size) != 3:
        raise ValueError(f"registration needs volumes of three axes, got {len(fixed.size)}.")
    for name, mask, volume in (("fixed_mask", fixed_mask, fixed), ("moving_mask", moving_mask, moving)):
        if mask is not None and tuple(mask.shape) != volume.size:
            raise ValueError(f"{name} must be {volume.size}, as its volume, got {tuple(mask.shape)}.")
    voxels = fixed.grid.to_voxels(_cells(fixed.grid.shape, fixed.grid.stride, stride))
    voxels = voxels[_inside(voxels, fixed_mask)]
    source = fixed.to_world(voxels.to(fixed.device)).cpu()
    matched = matcher(fixed, moving, source)
    landed = moving.to_voxels(matched.points.to(moving.device)).cpu()
    keep = matched.accepted & _inside(landed, moving_mask)
    return GridMatches(source[keep], matched.points[keep], matched.score[keep], len(source))


def _cells(shape: Sequence[int], cell: Sequence[int], stride: int) -> Tensor:
    """Return the positions (N, 3) of every stride-th cell, the first one half a step from the border."""
    if stride < 1 or any(stride % side for side in cell):
        raise ValueError(f"stride must be a multiple of {tuple(cell)}, the voxels a cell, got {stride}.")
    axes = []
    for side, step in zip(shape, (stride // own for own in cell), strict=True):
        axes.append(torch.arange(min((step - 1) // 2, side - 1), side, step, dtype=torch.float64))
    return torch.cartesian_prod(*axes)


def _inside(voxels: Tensor, mask: Tensor | None) -> Tensor:
    """Say which positions (N, 3) have their nearest voxel inside the mask."""
    if mask is None:
        return torch.ones(len(voxels), dtype=torch.bool)
    last = voxels.new_tensor(mask.shape) - 1
    place = (voxels + 0.5).floor().clamp(min=0).minimum(last).long()
    return mask.cpu().bool()[place[:, 0], place[:, 1], place[:, 2]]
