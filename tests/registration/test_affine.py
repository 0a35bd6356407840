# SPDX-License-Identifier: Apache-2.0
"""SAMAffine on ideal embeddings of a known map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.matching import VolumeEmbedding
from monai_ext.registration import SAMAffine
from tests.registration.anatomy import embedded, mapped, turned, voxels_of

SIZE = (40, 44, 48)
TRUTH = turned()


def pair() -> tuple[VolumeEmbedding, VolumeEmbedding]:
    """What lies at x in the fixed volume lies at ``TRUTH x`` in the moving one, whose grid is larger and elsewhere."""
    inverse = torch.linalg.inv(TRUTH)
    moving = embedded((52, 52, 60), voxels_of(offset=(-8.0, -12.0, -6.0)), lambda world: mapped(inverse, world))
    return embedded(SIZE, voxels_of()), moving


def error(matrix: Tensor) -> float:
    points = torch.rand(500, 3, dtype=torch.float64) * 2 * torch.tensor(SIZE)
    return float((mapped(matrix, points) - mapped(TRUTH, points)).norm(dim=1).mean())


@pytest.mark.parametrize("estimator", ["huber", "ransac", "lstsq"])
def test_a_known_map_is_found(estimator: str) -> None:
    result = SAMAffine(estimator=estimator)(*pair())
    assert error(result.matrix) < 0.5
    expected = (mapped(result.matrix, result.source) - result.target).norm(dim=1)
    torch.testing.assert_close(result.residuals, expected)
    summary = result.summary()
    assert summary["grid_points"] == 5 * 6 * 6  # cells of 2 voxels, each fourth
    assert summary["grid_points"] >= summary["matches"] == len(result.score) >= summary["inliers"] > 100
    assert result.score.min() >= 0.7


def test_the_grid_lies_at_the_centres_of_cells_half_a_step_from_the_border() -> None:
    volume = embedded(SIZE, voxels_of())
    source = SAMAffine(threshold=-1)(volume, volume).source
    assert sorted(set(source[:, 0].tolist())) == [2 * (8 * i + 2.5) for i in range(5)]


def test_a_large_stride_still_asks_for_a_cell() -> None:
    volume = embedded((8, 32, 32), voxels_of())
    found = SAMAffine(stride=16, threshold=-1, model="rigid", min_points=4)(volume, volume)
    assert found.asked == 1 * 2 * 2


def test_only_matches_inside_both_bodies_count() -> None:
    fixed, moving = pair()
    fixed_mask, moving_mask = (torch.zeros(volume.size, dtype=torch.bool) for volume in (fixed, moving))
    fixed_mask[8:] = True
    moving_mask[:, :40] = True
    result = SAMAffine()(fixed, moving, fixed_mask, moving_mask)
    assert result.asked == 4 * 6 * 6
    assert fixed.to_voxels(result.source)[:, 0].min() >= 7.5
    assert moving.to_voxels(result.target)[:, 1].max() < 39.5
    assert error(result.matrix) < 0.7


def test_an_empty_body_is_refused() -> None:
    fixed, moving = pair()
    with pytest.raises(InputError, match="0 matched points, and min_points is 12"):
        SAMAffine()(fixed, moving, torch.zeros(fixed.size, dtype=torch.bool))


def test_mutual_matches_have_fewer_outliers() -> None:
    """Half of the moving volume shows something else: what is asked there has no true match."""
    fixed, moving = pair()
    for maps in (*moving.fine, moving.coarse):
        half = maps[:, : maps.shape[1] // 2]
        half.copy_(torch.nn.functional.normalize(torch.randn(half.shape), dim=0))
    share = [
        float((mapped(TRUTH, found.source) - found.target).norm(dim=1).lt(8).double().mean())
        for found in (SAMAffine(threshold=-1, mutual=mutual, model="rigid")(fixed, moving) for mutual in (True, False))
    ]
    assert share[0] > share[1] + 0.05


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SAMAffine(estimator="mean"), "estimator must be one of"),
        (lambda: SAMAffine(min_points=2), "min_points must be at least 4"),
        (lambda: SAMAffine(stride=3)(*pair()), r"stride must be a multiple of \(2, 2, 2\)"),
        (lambda: SAMAffine()(*pair(), torch.ones(2, 2, 2).bool()), r"fixed_mask must be \(40, 44, 48\)"),
    ],
)
def test_arguments_out_of_range_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
