# SPDX-License-Identifier: Apache-2.0
"""The coarse field's minimum against dense and iterative solutions, its limits, and its alternatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.cell_grid import CellGrid
from monai_ext.errors import InputError
from monai_ext.registration.least_squares_field import least_squares_field
from monai_ext.registration.scattered_fields import gaussian_field, interpolated_field

NODES = CellGrid((4, 5, 3), (16, 16, 16))


def scattered(count: int = 150, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Places among the nodes and a smooth displacement with some noise."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, 3, generator=generator, dtype=torch.float64) * (torch.tensor(NODES.shape) - 1)
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return places, torch.stack([places[:, 1].sin(), places[:, 0] / 2, places.sum(dim=1).cos()], dim=1) + 0.2 * noise


def energy(field: Tensor, places: Tensor, moved: Tensor, smoothness: float) -> Tensor:
    """As the definition says, by PyTorch's interpolation and plain differences."""
    sides = torch.tensor(NODES.shape, dtype=torch.float64)
    grid = (2 * places / (sides - 1) - 1).flip(-1)[None, None, None]
    at = F.grid_sample(field[None], grid, padding_mode="border", align_corners=True)[0, :, 0, 0].T
    rough = sum(field.diff(dim=axis).square().sum() for axis in (1, 2, 3)) + 1e-3 * field.square().sum()
    return (at - moved).square().sum(dim=1).mean() + smoothness * rough / len(NODES)


@pytest.mark.parametrize("smoothness", [1e-3, 0.04, 10.0])
def test_the_field_is_the_dense_solution(smoothness: float) -> None:
    """The normal equations of the energy, by automatic differentiation and a dense solver."""
    places, moved = scattered()
    zero = torch.zeros(3, *NODES.shape, dtype=torch.float64)

    def of_flat(flat: Tensor) -> Tensor:
        return energy(flat.reshape(zero.shape), places, moved, smoothness)

    gradient = torch.autograd.functional.jacobian(of_flat, zero.flatten())
    hessian = torch.autograd.functional.hessian(
        lambda flat: energy(flat.reshape(1, *NODES.shape), places, torch.zeros(1), smoothness),
        torch.zeros(len(NODES), dtype=torch.float64),
    )
    dense = torch.linalg.solve(hessian, -gradient.reshape(3, -1).T).T.reshape(zero.shape)
    found = least_squares_field(NODES, places, moved, smoothness)
    torch.testing.assert_close(found, dense, atol=1e-8, rtol=0)


@pytest.mark.parametrize("shape", [(1, 4, 3), (5, 1, 1), (2, 2, 6), (3, 3, 3), (1, 1, 1)])
def test_grids_of_any_sides_are_solved(shape: tuple[int, ...]) -> None:
    """Against the matrices of the definition, written in full; places beyond the nodes count at the border."""
    nodes = CellGrid(shape, (8, 8, 8))
    places = torch.rand(60, 3, dtype=torch.float64) * (torch.tensor(shape) + 1) - 1
    moved = torch.randn(60, 3, dtype=torch.float64)
    numbers, corners = nodes.corners(places)
    weights = torch.zeros(60, len(nodes), dtype=torch.float64).scatter_add_(1, numbers, corners)
    near = (torch.cdist(nodes.positions(), nodes.positions()) - 1).abs() < 1e-6
    laplacian = torch.diag(near.double().sum(dim=1) + 1e-3) - near.double()
    system = weights.T @ weights / 60 + 0.1 * laplacian / len(nodes)
    expected = torch.linalg.solve(system, weights.T @ moved / 60).T.reshape(3, *shape)
    torch.testing.assert_close(least_squares_field(nodes, places, moved, 0.1), expected, atol=1e-9, rtol=0)


def test_adam_comes_close_from_above_and_no_further() -> None:
    places, moved = scattered()
    best = least_squares_field(NODES, places, moved, 0.04)
    field = torch.zeros_like(best, requires_grad=True)
    optimizer = torch.optim.Adam([field], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        value = energy(field, places, moved, 0.04)
        value.backward()
        optimizer.step()
    least = energy(best, places, moved, 0.04)
    assert 0 <= float(value.detach() - least) < 1e-3 * float(least)
    torch.testing.assert_close(field.detach(), best, atol=0.05, rtol=0)


def test_with_growing_smoothness_nothing_but_the_affine_is_left() -> None:
    places, moved = scattered()
    sizes = [float(least_squares_field(NODES, places, moved + 1, s).norm(dim=0).max()) for s in (1e3, 1e5, 1e7, 1e9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-5


def test_with_vanishing_smoothness_exact_displacements_are_reproduced() -> None:
    truth = torch.randn(3, *NODES.shape, dtype=torch.float64)
    places = scattered(2000)[0]
    numbers, weights = NODES.corners(places)
    moved = (truth.flatten(1)[:, numbers] * weights).sum(dim=2).T
    torch.testing.assert_close(least_squares_field(NODES, places, moved, 1e-9), truth, atol=1e-3, rtol=0)


def test_nodes_far_from_all_places_follow_the_nearest() -> None:
    """A translation seen in one corner: extrapolated nearly unchanged at the usual smoothness."""
    places = scattered()[0] * 0.4
    moved = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64).expand(len(places), 3)
    field = least_squares_field(NODES, places, moved, 0.04)
    torch.testing.assert_close(field, moved[0][:, None, None, None].expand_as(field), atol=0.02, rtol=0)


def test_the_gaussian_mean_is_the_plain_sum() -> None:
    places, moved = scattered()
    node = NODES.positions()[33]
    weights = torch.exp(-0.5 * (places - node).square().sum(dim=1) / 0.7**2)
    expected = (weights[:, None] * moved).sum(dim=0) / weights.sum()
    found = gaussian_field(NODES, places, moved, sigma=0.7).flatten(1)[:, 33]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert gaussian_field(NODES, places[:1] * 0, moved[:1], sigma=0.3)[:, -1, -1, -1].tolist() == [0, 0, 0]


def test_interpolation_goes_through_the_matches_and_on_as_the_nearest() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 2.0], dtype=torch.float64)] * 3)
    moved = corners @ torch.randn(3, 3, dtype=torch.float64) + 1
    field = interpolated_field(NODES, corners, moved)
    linear = torch.linalg.lstsq(torch.cat([corners, torch.ones(8, 1)], dim=1), moved).solution
    middle = torch.cat([torch.ones(3), torch.ones(1)]).double() @ linear
    torch.testing.assert_close(field[:, 1, 1, 1], middle)
    torch.testing.assert_close(field[:, 3, 4, 2], moved[-1])
    with pytest.raises(InputError, match="in a plane cannot be interpolated"):
        interpolated_field(NODES, corners[:4], moved[:4])
