# SPDX-License-Identifier: Apache-2.0
"""Cells and voxels: positions, interpolation between cells, and maps resized from coarse to fine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_ext.cell_grid import CellGrid
from monai_ext.coarse_to_fine import CoarseToFine

GRIDS = [CellGrid((3, 4, 5), (4, 16, 16)), CellGrid((4, 1), (2, 3)), CellGrid((7,), (2,))]


@pytest.mark.parametrize("grid", GRIDS)
def test_cells_and_voxels_lead_to_each_other(grid: CellGrid) -> None:
    cells = torch.rand(20, len(grid.shape), dtype=torch.float64) * 10 - 2
    torch.testing.assert_close(grid.to_cells(grid.to_voxels(cells)), cells)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_cell_is_centred_among_the_voxels_that_it_holds(grid: CellGrid) -> None:
    cells = grid.positions()
    centres = grid.to_voxels(cells)
    half = (torch.tensor(grid.stride, dtype=torch.float64) - 1) / 2
    for voxels in (centres, centres - half, centres + half):
        assert torch.equal(grid.holding(voxels), cells.long())


@pytest.mark.parametrize("grid", GRIDS)
def test_numbers_run_with_the_last_axis_fastest(grid: CellGrid) -> None:
    cells = grid.positions()
    assert torch.equal(grid.number(cells), torch.arange(len(grid)))
    assert torch.equal(grid.place(torch.arange(len(grid))), cells.long())


@pytest.mark.parametrize("grid", GRIDS)
def test_a_linear_map_is_interpolated_exactly(grid: CellGrid) -> None:
    slope = torch.rand(len(grid.shape), dtype=torch.float64)
    values = grid.positions() @ slope
    cells = torch.rand(50, len(grid.shape), dtype=torch.float64) * (torch.tensor(grid.shape) - 1)
    numbers, weights = grid.corners(cells)
    torch.testing.assert_close((values[numbers] * weights).sum(dim=1), cells @ slope)


def test_outside_the_nearest_cell_continues() -> None:
    grid = CellGrid((3, 4), (2, 2))
    numbers, weights = grid.corners(torch.tensor([[-5.0, 1.0], [9.0, 9.0]]))
    values = torch.arange(12.0)
    assert (values[numbers] * weights).sum(dim=1).tolist() == [1.0, 11.0]
    assert grid.contains(torch.tensor([[-0.1, 1.0], [2.0, 3.0], [0.0, 3.1]])).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (CellGrid((3, 2, 4), (4, 16, 16)), CellGrid((6, 16, 32), (2, 2, 2))),
        (CellGrid((1, 2, 1), (4, 16, 16)), CellGrid((2, 16, 8), (2, 2, 2))),
        (CellGrid((2, 3), (16, 16)), CellGrid((16, 24), (2, 2))),
    ],
)
def test_resizing_equals_torchs_where_grids_cover_the_same_voxels(coarse: CellGrid, fine: CellGrid) -> None:
    mode = {2: "bilinear", 3: "trilinear"}[len(coarse.shape)]
    embedding = torch.randn(5, *coarse.shape, dtype=torch.float64)
    resize = CoarseToFine(coarse, fine, dtype=torch.float64)
    expected = F.interpolate(embedding[None], size=fine.shape, mode=mode, align_corners=False)[0]
    torch.testing.assert_close(resize(embedding), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(resize(embedding, slice(1, 2)), expected[:, 1:2], atol=1e-12, rtol=0)
    torch.testing.assert_close(resize.inverse_lengths(embedding), 1 / expected.norm(dim=0), atol=1e-9, rtol=1e-9)


def test_grids_of_different_extent_are_not_stretched() -> None:
    """A coarse grid reaching further, as that of a padded volume does, gives the positions' own values."""
    coarse, fine = CellGrid((5, 3, 3), (4, 16, 16)), CellGrid((8, 20, 13), (2, 2, 2))
    slope = torch.rand(3, dtype=torch.float64)
    ramp = (coarse.to_voxels(coarse.positions()) @ slope).reshape(1, *coarse.shape)
    inside = coarse.contains(coarse.to_cells(fine.to_voxels(fine.positions()))).reshape(fine.shape)
    expected = (fine.to_voxels(fine.positions()) @ slope).reshape(fine.shape)
    resized = CoarseToFine(coarse, fine, dtype=torch.float64)(ramp)[0]
    torch.testing.assert_close(resized[inside], expected[inside])


def test_opposite_neighbours_have_a_finite_inverse_length() -> None:
    coarse, fine = CellGrid((2, 1), (3, 1)), CellGrid((6, 1), (1, 1))
    embedding = torch.tensor([[[1.0], [-1.0]]])
    lengths = CoarseToFine(CellGrid((2, 1), (2, 1)), CellGrid((1, 1), (4, 1))).inverse_lengths(embedding)
    assert lengths.isfinite().all()
    assert CoarseToFine(coarse, fine).inverse_lengths(embedding).isfinite().all()


@pytest.mark.parametrize(("shape", "stride"), [((0, 2), (2, 2)), ((2,), (2, 2)), ((2,), (0,))])
def test_a_grid_without_cells_is_refused(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive numbers"):
        CellGrid(shape, stride)
