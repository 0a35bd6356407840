# SPDX-License-Identifier: Apache-2.0
"""Points that neighbouring matches agree on: those that stay where they are when led there and back."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from monai_ext.matching._refine import refine
from monai_ext.matching._robust_affine import MIN_ANCHORS, robust_map
from monai_ext.matching._search import at_cells, best_cells
from monai_ext.matching.volume_embedding import VolumeEmbedding

CELLS_AT_ONCE = 4096


class FixedPointRule(NamedTuple):
    """How anchors are found and which of them count; see `PointMatcher`."""

    n_iter: int
    radius: int
    anchor_score: float
    max_shift_mm: float
    refine: bool


class FixedPoints(NamedTuple):
    """Places in the moving volume (N, axes) in RAS mm, numbers of anchors, and which places can be used (N,)."""

    world: Tensor
    anchors: Tensor
    usable: Tensor


def fixed_points(
    fixed: VolumeEmbedding, moving: VolumeEmbedding, world: Tensor, rule: FixedPointRule, budget_mb: float
) -> FixedPoints:
    """Map points (N, axes) by a robust affine fit to the matches of the cells around each of them.

    Structural matching of UAE (Bai et al. 2023, https://arxiv.org/abs/2311.15111): the cells of a cube go there and
    back again; where they come to rest are anchors.
    """
    start, inside = _cube(fixed, world, rule.radius)
    here = fixed.grid.number(start)  # (N, K)
    for index in range(rule.n_iter):
        if index % 2 == 0:
            there, score = _follow(fixed, moving, here, budget_mb)
        else:
            here, score = _follow(moving, fixed, there, budget_mb)
    target = moving.to_world(moving.grid.to_voxels(moving.grid.place(there).double()))
    cells = _refined(fixed, moving, here, there) if rule.refine else fixed.grid.place(here).double()
    source = fixed.to_world(fixed.grid.to_voxels(cells))
    shift = source - world[:, None]
    keep = inside & (score > rule.anchor_score) & (shift.norm(dim=2) < rule.max_shift_mm)
    keep &= _first_of_its_kind(there, keep)
    cell = min(float(side) for side in fixed.affine[:-1, :-1].norm(dim=0)) * min(fixed.grid.stride)
    mapped, usable = robust_map(shift, target, keep, smallest_spread=cell / 4)
    return FixedPoints(mapped, keep.sum(dim=1), usable & (keep.sum(dim=1) >= MIN_ANCHORS))


def _cube(volume: VolumeEmbedding, world: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Return the cells (N, K, axes) around each point, and which of them exist (N, K)."""
    steps = list(product(range(-radius, radius + 1), repeat=len(volume.grid.shape)))
    cells = volume.grid.holding(volume.to_voxels(world))[:, None] + torch.tensor(steps, device=volume.device)
    sides = torch.tensor(volume.grid.shape, device=volume.device)
    inside = ((cells >= 0) & (cells < sides)).all(dim=2)
    return cells.clamp(min=0).minimum(sides - 1), inside


def _follow(
    source: VolumeEmbedding, target: VolumeEmbedding, numbers: Tensor, budget_mb: float
) -> tuple[Tensor, Tensor]:
    """Match cells by number (N, K); each different one is searched once."""
    different, places = numbers.unique(return_inverse=True)
    found = [
        best_cells(target, at_cells(source, source.grid.place(some)), budget_mb)
        for some in different.split(CELLS_AT_ONCE)
    ]
    matches = target.grid.number(torch.cat([part.cells for part in found]))
    return matches[places], torch.cat([part.score for part in found])[places]


def _refined(fixed: VolumeEmbedding, moving: VolumeEmbedding, here: Tensor, there: Tensor) -> Tensor:
    """Place the matches (N, K) of the moving volume's cells between the fixed one's, (N, K, axes).

    Without it all anchors would be rounded the same way wherever the grids are half a cell apart.
    """
    pairs, places = (here * len(moving.grid) + there).unique(return_inverse=True)
    cells = []
    for some in pairs.split(CELLS_AT_ONCE // 8):  # 7 neighbours each
        queries = at_cells(moving, moving.grid.place(some % len(moving.grid)))
        cells.append(refine(fixed, queries, fixed.grid.place(some // len(moving.grid))))
    return torch.cat(cells)[places]


def _first_of_its_kind(numbers: Tensor, keep: Tensor) -> Tensor:
    """Say which of those kept (N, K) is the first in its row with its number."""
    index = torch.arange(numbers.shape[1], device=numbers.device)
    marked = torch.where(keep, numbers, -1 - index)  # what is not kept differs from all others
    ordered, order = marked.sort(dim=1, stable=True)
    first = torch.ones_like(keep)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(keep).scatter_(1, order, first)
