# SPDX-License-Identifier: Apache-2.0
"""Scores of a displacement against loops over voxels and against maps whose determinants are known."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.metrics import (
    folding_percentage,
    jacobian_determinant,
    sd_log_jacobian,
    target_registration_error,
    warped_dice,
)

SIZES = {2: (9, 12), 3: (6, 8, 7)}
AFFINES = {
    2: torch.tensor([[0.0, -1.5, 20.0], [2.0, 0.0, -7.0], [0.0, 0.0, 1.0]]),
    3: torch.tensor([[0.0, 0.4, 1.5, 20.0], [0.0, 1.9, -0.3, -7.0], [2.5, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]]),
}


def field(axes: int, length: float = 1.0) -> Tensor:
    return length * torch.randn(axes, *SIZES[axes], dtype=torch.float64)


def linear_map(matrix: Tensor, size: tuple[int, ...]) -> Tensor:
    """Displacement of x -> matrix x."""
    places = torch.stack(torch.meshgrid(*(torch.arange(side).double() for side in size), indexing="ij"))
    return torch.einsum("ij,j...->i...", matrix.double(), places) - places


def naive_determinants(ddf: np.ndarray, mask: np.ndarray) -> list[float]:
    """Voxel by voxel, where the mask and a next voxel along each axis are."""
    axes, found = len(ddf), []
    for place in product(*(range(side - 1) for side in ddf.shape[1:])):
        jacobian = np.eye(axes)
        for axis in range(axes):
            following = tuple(p + (other == axis) for other, p in enumerate(place))
            jacobian[:, axis] += ddf[(slice(None), *following)] - ddf[(slice(None), *place)]
        found += [float(np.linalg.det(jacobian))] * int(mask[place])
    return found


@pytest.mark.parametrize("axes", [2, 3])
def test_folding_and_spread_equal_loops_over_the_voxels_of_the_mask(axes: int) -> None:
    ddf, mask = field(axes, length=0.4), torch.rand(1, *SIZES[axes]) > 0.4
    determinants = naive_determinants(ddf.numpy(), mask[0].numpy())
    folded = [value <= 0 for value in determinants]
    assert 0 < sum(folded) < len(folded)
    assert folding_percentage(ddf, mask) == pytest.approx(100 * sum(folded) / len(folded))
    logs = [math.log(max(value, 1e-9)) for value in determinants]
    assert sd_log_jacobian(ddf, mask) == pytest.approx(np.std(logs))


@pytest.mark.parametrize("axes", [2, 3])
def test_the_determinant_of_a_linear_map_is_that_of_its_matrix(axes: int) -> None:
    matrix = torch.eye(axes, dtype=torch.float64) + 0.3 * torch.randn(axes, axes, dtype=torch.float64)
    found = jacobian_determinant(linear_map(matrix, SIZES[axes]))
    assert found.shape == tuple(side - 1 for side in SIZES[axes])
    torch.testing.assert_close(found, torch.linalg.det(matrix).expand_as(found))


@pytest.mark.parametrize(("stretch", "percentage"), [(0.01, 0.0), (0.0, 100.0), (-1.0, 100.0)])
def test_what_is_flattened_or_turned_over_is_folded(stretch: float, percentage: float) -> None:
    ddf = linear_map(torch.diag(torch.tensor([1.0, stretch, 1.0])), SIZES[3])
    ddf[1] = ddf[1].round(decimals=12)
    assert folding_percentage(ddf) == percentage


def test_the_last_voxels_never_count() -> None:
    mask = torch.zeros(SIZES[2])
    mask[-1], mask[:, -1], mask[2, 3] = 1, 1, 1
    ddf = torch.zeros(2, *SIZES[2])
    ddf[0, 3, 3] = -1
    assert folding_percentage(ddf, mask) == 100.0
    assert folding_percentage(ddf) == pytest.approx(100 / (8 * 11))


def test_growing_everywhere_alike_is_no_spread() -> None:
    ddf = linear_map(torch.diag(torch.tensor([2.0, 1.5, 1.0])), SIZES[3])
    assert sd_log_jacobian(ddf) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("axes", [2, 3])
def test_the_landmark_error_is_the_distance_in_mm_after_an_interpolated_displacement(axes: int) -> None:
    ddf, affine = field(axes), AFFINES[axes]
    voxels = torch.rand(20, axes, dtype=torch.float64) * (torch.tensor(SIZES[axes]) - 1)
    world = voxels @ affine[:-1, :-1].double().T + affine[:-1, -1].double()
    moving = world + torch.randn(20, axes, dtype=torch.float64)
    moved = np.stack([map_coordinates(component, voxels.T.numpy(), order=1) for component in ddf.numpy()])
    landed = (voxels.numpy() + moved.T) @ affine[:-1, :-1].double().numpy().T + affine[:-1, -1].double().numpy()
    expected = [math.dist(a, b) for a, b in zip(landed, moving.numpy(), strict=True)]
    found = target_registration_error(ddf.float().double(), affine, world, moving)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_landmarks_of_a_known_affine_have_no_error_even_beside_the_grid_of_a_shift() -> None:
    shift = torch.tensor([1.0, -2.0, 0.5])
    ddf = shift[:, None, None, None].expand(3, *SIZES[3])
    points = torch.tensor([[0.0, 0.0, 0.0], [90.0, -50.0, 30.0]])
    moved = points + AFFINES[3][:3, :3] @ shift
    assert target_registration_error(ddf, AFFINES[3], points, moved).max() < 1e-5


@pytest.mark.parametrize("axes", [2, 3])
def test_dice_equals_counting_with_the_nearest_label(axes: int) -> None:
    ddf = field(axes)
    fixed, moving = (torch.randint(0, 4, SIZES[axes]) for _ in range(2))
    fixed[fixed == 2] = 0
    counts = {label: [0, 0] for label in (1, 3)}
    for place in product(*map(range, SIZES[axes])):
        there = [round(p + float(ddf[(axis, *place)])) for axis, p in enumerate(place)]
        inside = all(0 <= t < side for t, side in zip(there, SIZES[axes], strict=True))
        read = int(moving[tuple(min(max(t, 0), n - 1) for t, n in zip(there, SIZES[axes], strict=True))]) * inside
        for label, count in counts.items():
            count[0] += 2 * int(read == label == int(fixed[place]))
            count[1] += int(read == label) + int(fixed[place] == label)
    expected = {label: both / all_ for label, (both, all_) in counts.items()}
    assert warped_dice(ddf, fixed[None], moving) == pytest.approx(expected)


def test_a_label_that_is_displaced_out_of_the_image_scores_nothing() -> None:
    label = torch.zeros(SIZES[2])
    label[:2] = 7
    ddf = torch.zeros(2, *SIZES[2])
    ddf[0] = -20
    assert warped_dice(ddf, label, label) == {7: 0.0}
    assert warped_dice(ddf, label, torch.zeros(SIZES[2])) == {}


@pytest.mark.parametrize(
    ("score", "told"),
    [
        (lambda ddf: folding_percentage(ddf, torch.ones(3, 3)), r"the mask must have .* size \(9, 12\)"),
        (lambda ddf: sd_log_jacobian(ddf, torch.zeros(9, 12)), "the mask holds no voxel"),
        (lambda ddf: warped_dice(ddf, torch.zeros(9, 12), torch.zeros(9, 11)), "the moving label map must have"),
        (
            lambda ddf: target_registration_error(ddf, torch.eye(3), torch.zeros(4, 2), torch.zeros(5, 2)),
            r"as many in both images, each of 2 numbers, got \(4, 2\) in the fixed and \(5, 2\)",
        ),
    ],
)
def test_what_a_user_can_get_wrong_is_told(score: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        score(torch.zeros(2, 9, 12))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("ddf", "told"),
    [(torch.zeros(3, 4, 4), "with 2 or 3 axes"), (torch.zeros(2, 4, 1), "at least 2 voxels")],
)
def test_what_is_no_displacement_is_refused(ddf: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        jacobian_determinant(ddf)
