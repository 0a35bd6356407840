# SPDX-License-Identifier: Apache-2.0
"""SAMCoarse on ideal embeddings of a known smooth warp."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.matching import VolumeEmbedding
from monai_ext.registration import SAMAffine, SAMCoarse, WorldGrid, relocated
from monai_ext.registration._agreeing import agreeing
from monai_ext.registration.folding import measure_folding
from tests.registration.anatomy import bump, embedded, mapped, turned, voxels_of

SIZE = (40, 44, 40)
MATRIX = turned()


def to_fixed(world: Tensor) -> Tensor:
    """Where in the fixed volume lies what the moving one shows at ``world``: an affine map and a smooth bump."""
    aligned = mapped(torch.linalg.inv(MATRIX), world)
    return aligned + bump(aligned, height=9.0)


def pair() -> tuple[VolumeEmbedding, VolumeEmbedding]:
    moving = embedded((52, 56, 52), voxels_of(offset=(-10.0, -16.0, -10.0)), to_fixed)
    return embedded(SIZE, voxels_of()), moving


def embed_warped(matrix: Tensor) -> VolumeEmbedding:
    """The network on the moving volume after the affine map."""
    return embedded(SIZE, voxels_of(), lambda world: to_fixed(mapped(matrix, world)))


def error(transform, count: int = 400) -> Tensor:
    """Mean distance in mm between points and the anatomy shown where the transform takes them."""
    generator = torch.Generator().manual_seed(1)
    points = 8 + torch.rand(count, 3, generator=generator, dtype=torch.float64) * (2 * torch.tensor(SIZE) - 16)
    return (to_fixed(transform(points)) - points).norm(dim=1).mean()


@pytest.mark.parametrize(("field", "bound"), [("lsq", 0.7), ("nw", 0.87), ("interp", 0.7)])
def test_the_field_finds_what_the_affine_map_cannot(field: str, bound: float) -> None:
    fixed, moving = pair()
    matrix = SAMAffine()(fixed, moving).matrix
    result = SAMCoarse(field=field, spacing=8)(fixed, embed_warped, matrix)
    before = error(lambda points: mapped(matrix, points))
    assert error(result.transform) < bound < before / 2
    assert result.folding.percent == 0
    summary = result.summary()
    assert summary["matches"] >= summary["inliers"] > 500
    assert summary["residual_mean_mm"] < summary["residual_before_mean_mm"]


def test_without_embedding_again_the_same_field_is_found() -> None:
    """Ideal embeddings gain nothing from alignment, so both must agree."""
    fixed, moving = pair()
    again = SAMCoarse()(fixed, embed_warped, MATRIX)
    once = SAMCoarse()(fixed, lambda matrix: relocated(moving, matrix), MATRIX)
    assert abs(error(again.transform) - error(once.transform)) < 0.2
    assert error(once.transform) < error(lambda points: mapped(MATRIX, points)) / 2


def test_what_is_embedded_again_is_asked_for_by_the_matrix() -> None:
    asked = []

    def embed(matrix: Tensor) -> VolumeEmbedding:
        asked.append(matrix)
        return embed_warped(matrix)

    SAMCoarse()(pair()[0], embed, MATRIX)
    assert len(asked) == 1
    assert torch.equal(asked[0], MATRIX)


def test_a_relocated_volume_is_found_where_the_map_comes_from() -> None:
    moving = pair()[1]
    points = moving.to_world(torch.rand(20, 3, dtype=torch.float64) * 40)
    there = relocated(moving, MATRIX)
    torch.testing.assert_close(there.to_voxels(mapped(torch.linalg.inv(MATRIX), points)), moving.to_voxels(points))
    torch.testing.assert_close(there.inverse_lengths, moving.inverse_lengths)


def test_great_smoothness_leaves_the_affine_map() -> None:
    fixed = pair()[0]
    result = SAMCoarse(smoothness=1e9)(fixed, embed_warped, MATRIX)
    points = torch.rand(50, 3, dtype=torch.float64) * 80
    torch.testing.assert_close(result.transform(points), mapped(MATRIX, points), atol=1e-4, rtol=0)


def test_only_the_body_is_matched_and_judged() -> None:
    fixed = pair()[0]
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[8:32, 8:32, 8:32] = True
    result = SAMCoarse(stride=8)(fixed, embed_warped, MATRIX, mask)
    assert result.asked == 3**3
    dense = type(result.field).sampled(result.field, WorldGrid(SIZE, fixed.affine))
    assert result.folding == measure_folding(dense, mask)


def test_matches_unlike_their_neighbours_are_left_out() -> None:
    places = torch.cartesian_prod(*[torch.arange(6, dtype=torch.float64) * 8] * 3)
    moved = bump(places) + 0.1 * torch.randn(216, 3, dtype=torch.float64)
    wrong = torch.randperm(216)[:22]
    moved[wrong] += 15 * torch.nn.functional.normalize(torch.randn(22, 3, dtype=torch.float64), dim=1)
    keep = agreeing(places, moved, max_deviation=3, least_mm=1)
    assert not keep[wrong].any()
    assert int(keep.sum()) > 216 - 22 - 10
    assert agreeing(places, bump(places) * 0, max_deviation=3, least_mm=0).all()


def test_what_cannot_be_right_is_refused() -> None:
    fixed = pair()[0]
    with pytest.raises(InputError, match="0 matched points after the affine map, and min_points is 12"):
        SAMCoarse()(fixed, embed_warped, MATRIX, torch.zeros(SIZE, dtype=torch.bool))
    with pytest.raises(ValueError, match="field must be one of lsq, nw, interp"):
        SAMCoarse(field="spline")
    with pytest.raises(ValueError, match="smoothness must be positive"):
        SAMCoarse(smoothness=0)
    with pytest.raises(ValueError, match="min_points must be at least 1"):
        SAMCoarse(min_points=0)
