# SPDX-License-Identifier: Apache-2.0
"""Displacement fields, chains of them, their inverses and determinants."""

from __future__ import annotations

import sys

import pytest
import torch
from monai.networks.blocks import Warp
from torch import Tensor

from monai_ext.registration import TransformChain, WorldDisplacement, WorldGrid, invert, resample
from monai_ext.registration import world_grid as world_grid_module
from monai_ext.registration.folding import jacobian_determinant, measure_folding
from tests.registration.anatomy import mapped, orientations, smooth_field, smooth_values, turned, voxels_of

SIZE = (20, 24, 22)


def oblique(spacing: tuple[float, ...] = (2.0, 1.5, 3.0), shift: tuple[float, ...] = (10.0, -40.0, 7.0)) -> WorldGrid:
    return WorldGrid(SIZE, turned((20.0, -15.0, 30.0), (1.0, 1.0, 1.0), shift) @ voxels_of(spacing))


def inside(grid: WorldGrid, count: int = 200, margin: float = 2.0) -> Tensor:
    """Points between voxels, some voxels away from the border."""
    sides = torch.tensor(grid.shape, dtype=torch.float64)
    return grid.to_world(margin + torch.rand(count, 3, dtype=torch.float64) * (sides - 1 - 2 * margin))


def test_positions_go_to_the_world_and_back() -> None:
    grid = oblique()
    torch.testing.assert_close(grid.to_voxels(grid.points()), WorldGrid(SIZE, torch.eye(4)).points())
    torch.testing.assert_close(torch.tensor(grid.spacing), torch.tensor((2.0, 1.5, 3.0)))


def test_slabs_hold_each_voxel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_grid_module, "POINTS_AT_ONCE", 3 * 24 * 22)
    grid = oblique()
    assert len(list(grid.slabs())) == 7
    assert torch.equal(torch.cat([grid.points(slab) for slab in grid.slabs()]), grid.points())


def test_a_padded_grid_has_the_same_lattice_and_the_margin() -> None:
    grid = oblique()
    padded = grid.padded(4.0)
    assert padded.shape == (20 + 4, 24 + 6, 22 + 4)
    torch.testing.assert_close(padded.to_world(torch.tensor([[2.0, 3.0, 2.0]])), grid.to_world(torch.zeros(1, 3)))


def test_a_refined_grid_fills_the_same_box() -> None:
    grid, finer = oblique(), oblique().refined()
    assert len(finer) == 8 * len(grid)
    corners = torch.tensor([[-0.5, -0.5, -0.5], [19.5, 23.5, 21.5]])
    torch.testing.assert_close(finer.to_world(2 * corners + 0.5), grid.to_world(corners))


@pytest.mark.parametrize(
    ("shape", "affine"), [((2, 2), torch.eye(4)), ((2, 2, 0), torch.eye(4)), ((2, 2, 2), torch.zeros(4, 4))]
)
def test_impossible_grids_are_refused(shape: tuple[int, ...], affine: Tensor) -> None:
    with pytest.raises(ValueError, match="must be"):
        WorldGrid(shape, affine)


@pytest.mark.parametrize("bad", [torch.zeros(3, 2, 2, 2), torch.full((3, *SIZE), torch.nan)])
def test_impossible_fields_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="values must be"):
        WorldDisplacement(bad, oblique())


def test_a_matrix_that_is_no_affine_map_is_refused() -> None:
    with pytest.raises(ValueError, match="must be \\(4, 4\\)"):
        TransformChain([torch.diag(torch.tensor([1.0, 1.0, 1.0, 2.0]))])


def test_a_field_of_voxels_warps_as_monai_does() -> None:
    """On an oblique grid: MONAI's `Warp` never hears of millimetres."""
    grid = oblique()
    ddf, image = smooth_values(SIZE, 1.5, seed=0).float(), smooth_values(SIZE, 100.0, seed=1, channels=1).float()
    field = WorldDisplacement.from_voxels(ddf, grid)
    torch.testing.assert_close(field.to_voxels(), ddf.double())
    ours = resample(image, grid, field, grid)
    theirs = Warp(padding_mode="zeros")(image[None], ddf[None])[0]
    places = grid.to_voxels(field(grid.points()))
    within = ((places > 0) & (places < torch.tensor(SIZE) - 1)).all(dim=1)  # at the border both differ by design
    assert within.double().mean() > 0.5
    torch.testing.assert_close(ours.flatten()[within], theirs.flatten()[within], atol=1e-2, rtol=0)


def test_a_chain_applies_its_parts_in_their_order() -> None:
    grid = oblique()
    field, matrix = smooth_field(grid), turned()
    points = inside(grid)
    torch.testing.assert_close(TransformChain([field, matrix])(points), mapped(matrix, field(points)))
    torch.testing.assert_close(TransformChain([matrix, field])(points), field(mapped(matrix, points)))
    product = TransformChain([matrix, matrix]).matrix
    assert product is not None
    torch.testing.assert_close(product, matrix @ matrix)
    assert TransformChain([field]).matrix is None
    torch.testing.assert_close(TransformChain([])(points), points)


def test_a_chain_becomes_one_dense_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_grid_module, "POINTS_AT_ONCE", 1000)
    grid = oblique()
    chain = TransformChain([smooth_field(grid, seed=0), turned(), smooth_field(grid, seed=1)])
    dense = WorldDisplacement.sampled(chain, grid)
    torch.testing.assert_close(dense(grid.points()), chain(grid.points()))


def test_beyond_a_field_nothing_moves() -> None:
    grid = WorldGrid((4, 4, 4), torch.eye(4))
    field = WorldDisplacement(torch.ones(3, 4, 4, 4), grid)
    edge = torch.tensor([[-0.49, 0.0, 0.0], [-0.51, 0.0, 0.0], [3.49, 3.49, 3.49], [3.5, 0.0, 0.0]])
    assert field.at(edge)[:, 0].tolist() == [1, 0, 1, 0]
    assert field.at(edge, continued=True)[:, 0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.5, 3.0)])
def test_inverse_after_forward_moves_points_less_than_a_tenth_of_a_millimetre(spacing: tuple[float, ...]) -> None:
    """With a coarse field as registration makes it, whose first derivative jumps from cell to cell."""
    grid = oblique(spacing)
    coarse = WorldGrid((2, 2, 2), grid.affine @ voxels_of((16.0, 16.0, 16.0), (7.5, 7.5, 7.5)))
    chain = TransformChain([smooth_field(coarse, size=2.0, seed=2), turned()])
    inverse = invert(chain, grid)
    points = inside(grid, margin=-0.4)
    wrong = (inverse.transform(chain(points)) - points).norm(dim=1)
    assert (chain(points) - mapped(turned(), points)).norm(dim=1).max() > 3
    assert wrong.max() <= inverse.residual_max_mm + 0.02
    assert inverse.residual_max_mm < 0.1
    assert 0 < inverse.residual_mean_mm < 0.02
    exact = (chain.source_of(chain(points)) - points).norm(dim=1)
    assert exact.max() < 1e-3


def test_an_inverse_is_refined_until_it_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = WorldGrid((10, 10, 10), voxels_of())
    coarse = WorldGrid((3, 3, 3), voxels_of((8.0, 8.0, 8.0), (1.0, 1.0, 1.0)))
    chain = TransformChain([smooth_field(coarse, size=0.8, seed=2)])
    fine = invert(chain, grid, tolerance_mm=0.05)
    plain = invert(chain, grid, tolerance_mm=100)
    assert fine.residual_max_mm < 0.05 < plain.residual_max_mm
    monkeypatch.setattr(sys.modules["monai_ext.registration.invert"], "MOST_VOXELS", 1)
    assert invert(chain, grid, tolerance_mm=0.05).residual_max_mm == plain.residual_max_mm


def test_the_residual_is_measured_inside_the_mask_and_tells_of_folding(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = WorldGrid((16, 16, 16), voxels_of())
    values = torch.zeros(3, 16, 16, 16, dtype=torch.float64)
    values[0, 11:13] = 12.0  # folds: over two voxels more than their distance
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[2:6] = True
    chain = TransformChain([WorldDisplacement(values, grid)])
    monkeypatch.setattr(sys.modules["monai_ext.registration.invert"], "MOST_VOXELS", 30000)
    assert invert(chain, grid).residual_max_mm > 1
    assert invert(chain, grid, mask).residual_max_mm < 1e-6
    assert measure_folding(WorldDisplacement(values, grid)).percent > 5
    assert measure_folding(WorldDisplacement(values, grid), mask).percent == 0
    with pytest.raises(ValueError, match="mask must be"):
        invert(chain, grid, mask[:4])
    with pytest.raises(ValueError, match="mask must be"):
        measure_folding(WorldDisplacement(values, grid), torch.zeros_like(mask))


def test_points_beyond_a_field_are_their_own_source() -> None:
    grid = WorldGrid((8, 8, 8), torch.eye(4))
    field = WorldDisplacement(torch.full((3, 8, 8, 8), 0.5), grid)
    points = torch.tensor([[4.0, 4.0, 4.0], [20.0, 4.0, 4.0], [7.9, 4.0, 4.0]], dtype=torch.float64)
    found = field.source_of(points)
    torch.testing.assert_close(field(found), points)
    torch.testing.assert_close(found[1], points[1])
    torch.testing.assert_close(found[2], points[2] - 0.5)


@pytest.mark.parametrize("orientation", orientations()[::7])
def test_determinants_are_those_of_the_world_in_any_orientation(orientation: Tensor) -> None:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = turned((20.0, -15.0, 30.0), (1.0, 1.0, 1.0))[:3, :3] @ orientation * torch.tensor([2.0, 1.0, 3.0])
    grid = WorldGrid((5, 4, 6), affine)
    linear = turned((5.0, 3.0, -8.0), (1.2, 0.9, 1.1))
    field = WorldDisplacement.sampled(lambda points: mapped(linear, points), grid)
    torch.testing.assert_close(
        jacobian_determinant(field), torch.full(grid.shape, 1.2 * 0.9 * 1.1, dtype=torch.float64)
    )
    assert measure_folding(field).sd_log_j < 1e-9


def test_determinants_are_those_of_plain_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_grid_module, "POINTS_AT_ONCE", 500)
    grid = oblique()
    field = smooth_field(grid, size=8.0)
    voxel = (19, 5, 21)  # at the border of two axes
    here = [18, 5, 20]
    columns = []
    for axis in range(3):
        start = list(voxel)
        start[axis] = here[axis]
        end = list(start)
        end[axis] += 1
        positions = grid.to_world(torch.tensor([start, end], dtype=torch.float64))
        images = positions + torch.stack([field.values[(slice(None), *place)] for place in (start, end)])
        columns.append(images[1] - images[0])
    expected = torch.linalg.det(torch.stack(columns, dim=1)) / torch.linalg.det(grid.affine[:3, :3])
    found = jacobian_determinant(field)
    torch.testing.assert_close(found[voxel], expected)
    assert measure_folding(field).sd_log_j == pytest.approx(float(found.clamp(min=1e-9).log().std(correction=0)))


def test_a_grid_of_one_slice_has_no_determinants() -> None:
    grid = WorldGrid((4, 4, 1), torch.eye(4))
    with pytest.raises(ValueError, match="at least 2 voxels"):
        jacobian_determinant(WorldDisplacement(torch.zeros(3, 4, 4, 1), grid))


def test_labels_keep_their_type_and_their_values() -> None:
    grid = oblique()
    labels = torch.randint(0, 5, (1, *SIZE), dtype=torch.uint8)
    moved = resample(labels, grid, smooth_field(grid), grid, mode="nearest", padding_value=9)
    assert moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) == {0, 1, 2, 3, 4, 9}
    torch.testing.assert_close(resample(labels, grid, TransformChain([]), grid, mode="nearest"), labels)


@pytest.mark.parametrize(
    ("shape", "mode", "message"), [((1, 4, 4, 4), "linear", "image must"), (None, "cubic", "mode")]
)
def test_wrong_images_and_modes_are_refused(shape: tuple[int, ...] | None, mode: str, message: str) -> None:
    grid = oblique()
    with pytest.raises(ValueError, match=message):
        resample(torch.zeros(shape or (1, *SIZE)), grid, TransformChain([]), grid, mode)
