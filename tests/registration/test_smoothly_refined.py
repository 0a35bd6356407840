# SPDX-License-Identifier: Apache-2.0
"""The refined field is much the same, and its inverse can be held by a grid."""

from __future__ import annotations

import pytest
import torch

from monai_ext.registration import TransformChain, WorldDisplacement, WorldGrid, invert
from monai_ext.registration.smoothly_refined import smoothly_refined
from tests.registration.anatomy import turned, voxels_of

COARSE = WorldGrid((5, 6, 5), turned() @ voxels_of((32.0, 24.0, 32.0)))


def coarse_field() -> WorldDisplacement:
    generator = torch.Generator().manual_seed(0)
    return WorldDisplacement(1.5 * torch.randn(3, *COARSE.shape, generator=generator, dtype=torch.float64), COARSE)


def test_the_box_stays() -> None:
    grid = smoothly_refined(coarse_field()).grid
    assert grid.shape == tuple(8 * side for side in COARSE.shape)
    for ends in (torch.full((1, 3), -0.5), torch.tensor([COARSE.shape]) - 0.5):
        theirs = grid.to_world(ends * torch.where(ends > 0, 8, 1) + torch.where(ends > 0, 3.5, 0))
        torch.testing.assert_close(COARSE.to_world(ends), theirs)


def test_the_field_stays_much_the_same() -> None:
    field, refined = coarse_field(), smoothly_refined(coarse_field())
    places = 20 + 80 * torch.rand(500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    apart = (refined.at(places) - field.at(places)).norm(dim=1)
    assert float(apart.mean()) < 0.1 * float(field.at(places).norm(dim=1).mean())


def test_what_is_linear_stays_so() -> None:
    linear = WorldDisplacement.sampled(lambda x: x @ turned()[:3, :3].T, WorldGrid((9, 9, 9), torch.eye(4)))
    inner = 2 + 4 * torch.rand(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(smoothly_refined(linear).at(inner), linear.at(inner), atol=1e-9, rtol=0)


def test_the_stored_inverse_is_more_than_twice_as_exact() -> None:
    grid = WorldGrid((30, 26, 30), turned() @ voxels_of((2.5, 2.5, 2.5), (35.0, 35.0, 35.0)))
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[4:-4, 4:-4, 4:-4] = True
    kinked, smooth = (
        invert(TransformChain([field]), grid, mask, tolerance_mm=10.0).residual_max_mm
        for field in (coarse_field(), smoothly_refined(coarse_field()))
    )
    assert smooth < 0.5 * kinked


def test_an_axis_of_one_node_is_constant() -> None:
    field = WorldDisplacement(torch.ones(3, 1, 4, 1), WorldGrid((1, 4, 1), torch.eye(4)))
    torch.testing.assert_close(smoothly_refined(field).values, torch.ones(3, 8, 32, 8, dtype=torch.float64))


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="doublings must be at least 0, got -1"):
        smoothly_refined(coarse_field(), -1)
