# SPDX-License-Identifier: Apache-2.0
"""Two overlapping patches of a volume as rows of cells, and where each cell of one lies in the other."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.cell_grid import CellGrid
from monai_ext.coarse_to_fine import CoarseToFine


class Anchors(NamedTuple):
    """Places that both patches show.

    Attributes:
        cells: (N,) numbers of local cells in the anchors' patch.
        places: voxel positions (N, axes) in the first and in the second patch.
        alone: the patches do not overlap, so that each anchor is its own positive and the other patch has no part.
    """

    cells: Tensor
    places: tuple[Tensor, Tensor]
    alone: bool


class Head(NamedTuple):
    """Embeddings of both patches by one head.

    Attributes:
        grid: of one patch.
        rows: (2 len(grid), C), the first patch's cells, then the second's.
    """

    grid: CellGrid
    rows: Tensor


class PatchPair:
    """Two patches, their embeddings and their place in the volume.

    Args:
        local: (2, C, *cells).
        coarse: the global embedding, (2, C, *cells).
        affine: (2, axes + 1, axes + 1) float64, from voxels to mm; its axes at right angles.
        strides: voxels a cell of the local and of the global embedding.
        body: (2, *cells of the local embedding), where anchors may lie.
    """

    def __init__(
        self, local: Tensor, coarse: Tensor, affine: Tensor, strides: tuple[tuple[int, ...], ...], body: Tensor
    ) -> None:
        self.local, self.coarse = (
            Head(CellGrid(tuple(x.shape[2:]), stride), x.flatten(2).transpose(1, 2).reshape(-1, x.shape[1]))
            for x, stride in zip((local, coarse), strides, strict=True)
        )
        self.body = body
        self.across = [torch.linalg.solve(affine[1 - view], affine[view]) for view in (0, 1)]
        self.spacing = affine[:, :-1, :-1].norm(dim=1)  # (2, axes)
        self._coarse_maps = coarse.detach()

    def anchors(self, view: int, count: int, alone: bool, generator: torch.Generator | None) -> Anchors:
        """Draw local cells of one patch that the other shows, too; ``alone`` allows what only this one shows."""
        grid = self.local.grid
        here = grid.to_voxels(grid.positions(self.across[view].device))
        there = here @ self.across[view][:-1, :-1].T + self.across[view][:-1, -1]
        inside = self.body[view].flatten()
        shared = inside & grid.contains(grid.to_cells(there))
        alone = alone and not bool(shared.any())
        usable = inside if alone else shared
        lots = torch.rand(len(grid), generator=generator, device=usable.device).masked_fill_(~usable, -1)
        cells = lots.topk(min(count, len(grid))).indices
        cells = cells[usable[cells]]
        places = (here[cells], here[cells] if alone else there[cells])
        return Anchors(cells, (places[view], places[1 - view]), alone)

    @cached_property
    def resize(self) -> CoarseToFine:
        """What brings global similarities to local cells."""
        return CoarseToFine(self.coarse.grid, self.local.grid, self.coarse.rows.device, self.coarse.rows.dtype)

    @cached_property
    def inverse_lengths(self) -> Tensor:
        """1 / length of the global embedding at all local cells of both patches, (2 len(grid))."""
        return torch.cat([self.resize.inverse_lengths(maps).flatten() for maps in self._coarse_maps])

    def near(self, head: Head, anchors: Anchors, distance: float) -> Tensor:
        """Say which cells of both patches are nearer than a distance in mm to each anchor: (N, 2 len(grid))."""
        squares = [
            _squared_distances(head.grid, places, self.spacing[view]) for view, places in enumerate(anchors.places)
        ]
        return torch.cat(squares, dim=1) < distance**2


def read_at(head: Head, view: int, places: Tensor, nearest: bool = False) -> tuple[Tensor, Tensor]:
    """Return the cells between which places (N, axes) lie and their weights: (N, k) each, rows of ``head``."""
    cells = head.grid.to_cells(places)
    if nearest:
        numbers = head.grid.number(head.grid.clamp(cells.round()))[:, None]
        weights = torch.ones_like(numbers, dtype=head.rows.dtype)
    else:
        numbers, weights = head.grid.corners(cells)
    return numbers + view * len(head.grid), weights.to(head.rows.dtype)


def read_cells(head: Head, view: int, places: Tensor) -> Tensor:
    """Return the cells (N, k) that really contribute to the vectors at places (N, axes); some may repeat."""
    numbers, weights = read_at(head, view, places)
    return torch.where(weights > 1e-6, numbers, numbers.gather(1, weights.argmax(dim=1, keepdim=True)))


def blend(rows: Tensor, weights: Tensor) -> Tensor:
    """Return unit vectors (N, C): weighted sums of rows (N, k, C); a single row has its length already."""
    if weights.shape[1] == 1:
        return rows[:, 0]
    return F.normalize((rows * weights[..., None]).sum(dim=1), dim=1)


def _squared_distances(grid: CellGrid, places: Tensor, spacing: Tensor) -> Tensor:
    """Squared mm from places (N, axes) to all cells, (N, len(grid)): a sum of one small table an axis."""
    total = places.new_zeros((len(places), *[1] * len(grid.shape)), dtype=torch.float32)
    for axis, side in enumerate(grid.shape):
        stride = grid.stride[axis]
        centres = torch.arange(side, device=places.device, dtype=places.dtype) * stride + (stride - 1) / 2
        table = ((places[:, axis, None] - centres) * spacing[axis]).square().to(total.dtype)
        total = total + table.reshape(-1, *(side if a == axis else 1 for a in range(len(grid.shape))))
    return total.flatten(1)
