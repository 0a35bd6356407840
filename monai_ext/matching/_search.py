# SPDX-License-Identifier: Apache-2.0
"""Vectors at places of one volume, and the cells of another that resemble them most."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.cell_grid import CellGrid
from monai_ext.matching.volume_embedding import VolumeEmbedding

QUERIES_AT_ONCE = 128


class Queries(NamedTuple):
    """Unit vectors to look for.

    Attributes:
        fine: (Q, C) of the local embedding, and of the semantic one where there is one.
        coarse: (Q, C) of the global embedding.
    """

    fine: list[Tensor]
    coarse: Tensor


class Found(NamedTuple):
    """Cells (Q, axes), or the similarities (Q,) at them."""

    cells: Tensor
    score: Tensor


def describe(volume: VolumeEmbedding, voxels: Tensor, query: str) -> Queries:
    """Return the vectors at voxel positions (Q, axes): interpolated (``interp``) or of the cell around (``cell``)."""
    if query == "cell":
        return at_cells(volume, volume.grid.holding(voxels))
    cells = volume.grid.to_cells(voxels)
    coarse = volume.coarse_grid.to_cells(voxels)
    return Queries(
        [_blend(maps, volume.grid, cells) for maps in volume.fine], _blend(volume.coarse, volume.coarse_grid, coarse)
    )


def at_cells(volume: VolumeEmbedding, cells: Tensor) -> Queries:
    """Return the vectors of whole local cells (Q, axes), the global ones interpolated at their centres."""
    numbers = volume.grid.number(cells)
    coarse = volume.coarse_grid.to_cells(volume.grid.to_voxels(cells.double()))
    return Queries(
        [maps.flatten(1)[:, numbers].T.float() for maps in volume.fine],
        _blend(volume.coarse, volume.coarse_grid, coarse),
    )


def best_cells(volume: VolumeEmbedding, queries: Queries, budget_mb: float) -> Found:
    """Find for each query the cell (Q, axes) of the largest mean similarity; of equal ones the first.

    The volume is gone through in slabs, so that what lies in memory at once stays below about ``budget_mb``; neither
    the global embedding nor a whole map of similarities is ever made.
    """
    found = []
    with torch.no_grad(), torch.autocast(volume.device.type, enabled=False):
        for start in range(0, len(queries.coarse), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            found.append(_best_of(volume, Queries([x[some] for x in queries.fine], queries.coarse[some]), budget_mb))
    numbers = torch.cat([number for number, _ in found])
    return Found(volume.grid.place(numbers), torch.cat([score for _, score in found]))


def scores_at(volume: VolumeEmbedding, queries: Queries, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, local and global similarity (Q, K) of each query with its cells (Q, K, axes)."""
    there = at_cells(volume, cells.flatten(0, 1))
    fine, coarse = (
        [(x[:, None] * y.unflatten(0, cells.shape[:2])).sum(dim=2) for x, y in zip(ours, theirs, strict=True)]
        for ours, theirs in ((queries.fine, there.fine), ([queries.coarse], [there.coarse]))
    )
    total = torch.stack(fine).sum(dim=0)
    return (total + coarse[0]) / (len(fine) + 1), total / len(fine), coarse[0]


def _best_of(volume: VolumeEmbedding, queries: Queries, budget_mb: float) -> tuple[Tensor, Tensor]:
    planes, *plane = volume.grid.shape
    cells = 1
    for side in plane:
        cells *= side
    # similarities twice (the local and the resized global one), and a slab of embedding where it is not float32
    rows = 2 * len(queries.coarse) + (0 if volume.fine[0].dtype == torch.float32 else len(volume.fine[0]))
    depth = max(1, int(budget_mb * 1e6 / (4 * rows * cells)))
    maps = (queries.coarse @ volume.coarse.flatten(1).float()).unflatten(1, volume.coarse_grid.shape)
    best = maps.new_full((len(maps),), -torch.inf)
    numbers = torch.zeros_like(best, dtype=torch.long)
    for first in range(0, planes, depth):
        slab = slice(first, first + depth)
        similarity = queries.fine[0] @ volume.fine[0][:, slab].flatten(1).float()
        for vectors, embedding in zip(queries.fine[1:], volume.fine[1:], strict=True):
            similarity.addmm_(vectors, embedding[:, slab].flatten(1).float())
        similarity.addcmul_(volume.resize(maps, slab).flatten(1), volume.inverse_lengths[slab].flatten())
        score, number = similarity.max(dim=1)
        better = score > best
        best = torch.where(better, score, best)
        numbers = torch.where(better, number + first * cells, numbers)
    return numbers, best / (len(queries.fine) + 1)


def _blend(maps: Tensor, grid: CellGrid, cells: Tensor) -> Tensor:
    """Interpolate an embedding (C, *cells) at positions (Q, axes) in cells, to unit length."""
    numbers, weights = grid.corners(cells)
    vectors = maps.flatten(1)[:, numbers].float()  # (C, Q, corners)
    return F.normalize((vectors * weights.float()).sum(dim=2).T, dim=1)
