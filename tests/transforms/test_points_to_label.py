# SPDX-License-Identifier: Apache-2.0
"""Matched points become balls in the image's own grid, and numbers for the client."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.match_request import MATCH_REQUEST, MatchRequest
from monai_ext.matching import MatchedPoints
from monai_ext.transforms import PointsToLabeld

SHAPE = (12, 10, 9)
ANGLE = 0.4
AFFINE = np.array(
    [
        [1.5 * np.cos(ANGLE), 0.0, 2.0 * np.sin(ANGLE), 4.0],
        [0.0, -1.0, 0.0, 5.0],
        [-1.5 * np.sin(ANGLE), 0.0, 2.0 * np.cos(ANGLE), -6.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def world(voxels: list[list[float]]) -> torch.Tensor:
    return torch.tensor(np.array(voxels) @ AFFINE[:3, :3].T + AFFINE[:3, 3])


def matches(voxels: list[list[float]], accepted: list[bool] | None = None) -> MatchedPoints:
    count = len(voxels)
    scores = torch.linspace(0.5, 0.9, count)
    return MatchedPoints(
        points=world(voxels),
        score=scores,
        local_score=scores - 0.1,
        global_score=scores + 0.1,
        cycle_error=torch.arange(count) + 0.25,
        accepted=torch.tensor(accepted or [True] * count),
        fallback=torch.zeros(count, dtype=torch.bool),
        anchors=torch.arange(count),
        reasons=("",) * count,
    )


def item(matched: MatchedPoints, space: str = "RAS") -> dict:
    names = tuple(f"p{index}" for index in range(len(matched)))
    request = MatchRequest("a.nii.gz", torch.zeros(1, 4, 4, 4), torch.zeros(len(matched), 3), names, space)
    image = MetaTensor(torch.zeros(1, 5, 6, 7), affine=torch.eye(4))
    image.meta |= {"source_shape": torch.tensor(SHAPE), "source_affine": AFFINE, MATCH_REQUEST: request}
    return {"image": image, "pred": matched}


def naive(voxels: list[list[float]], radius: float, values: list[int]) -> np.ndarray:
    """Go through all voxels and take the nearest point that is near enough."""
    expected = np.zeros(SHAPE, dtype=int)
    points = world(voxels).numpy()
    for index in np.ndindex(*SHAPE):
        distances = np.linalg.norm(points - (AFFINE[:3, :3] @ index + AFFINE[:3, 3]), axis=1)
        nearest = int(distances.argmin())
        if distances[nearest] <= radius:
            expected[index] = values[nearest]
    return expected


@pytest.mark.parametrize("radius", [1.1, 3.3, 6.0])
def test_balls_are_those_of_a_naive_search_even_where_they_meet_or_leave_the_image(radius: float) -> None:
    voxels = [[4.2, 4.9, 4.0], [6.1, 5.3, 4.4], [0.1, 9.2, 8.3], [11.0, 0.0, 0.0]]
    result = PointsToLabeld(keys=["pred"], radius_mm=radius)(item(matches(voxels)))["pred"]
    assert result.shape == (1, *SHAPE)
    np.testing.assert_array_equal(result[0].numpy(), naive(voxels, radius, [1, 2, 3, 4]))
    np.testing.assert_allclose(result.affine, AFFINE)


def test_a_point_has_one_voxel_however_small_its_ball_is_and_none_outside_of_the_image() -> None:
    result = PointsToLabeld(keys=["pred"], radius_mm=0.0)(item(matches([[3.3, 4.4, 5.4], [30.0, 2.0, 2.0]])))["pred"]
    assert (result[0] == 1).nonzero().tolist() == [[3, 4, 5]]
    assert int((result > 0).sum()) == 1


@pytest.mark.parametrize(("drawn", "values"), [("accepted", [0, 2]), ("all", [0, 1, 2])])
def test_points_that_were_not_accepted_are_drawn_on_request_only(drawn: str, values: list[int]) -> None:
    found = PointsToLabeld(keys=["pred"], drawn=drawn)(item(matches([[1, 1, 1], [9, 8, 7]], [False, True])))
    assert found["pred"].unique().tolist() == values
    assert [point["drawn"] for point in found["result"]["points"]] == [drawn == "all", True]
    assert [point["accepted"] for point in found["result"]["points"]] == [False, True]


def test_the_answer_is_plain_json_with_places_in_the_space_that_was_asked_for() -> None:
    voxels = [[4.0, 5.0, 6.0], [1.0, 2.0, 3.0]]
    found = PointsToLabeld(keys=["pred"], radius_mm=2.0)(item(matches(voxels), space="LPS"))["result"]
    answer = json.loads(json.dumps(found))
    first = answer["points"][0]
    assert (first["name"], first["value"], first["voxel"]) == ("p0", 1, voxels[0])
    np.testing.assert_allclose(first["place"], world(voxels)[0].numpy() * [-1, -1, 1], atol=1e-4)
    assert (first["score"], first["local_score"], first["global_score"]) == (0.5, 0.4, 0.6)
    assert (first["cycle_error_mm"], answer["points"][1]["anchors"]) == (0.25, 1)
    assert {name: answer[name] for name in ("space", "unit", "reference", "radius_mm")} == {
        "space": "LPS",
        "unit": "mm",
        "reference": "a.nii.gz",
        "radius_mm": 2.0,
    }


def test_three_hundred_points_have_three_hundred_values() -> None:
    places = [list(index) for index in np.ndindex(*SHAPE)][:300]
    result = PointsToLabeld(keys=["pred"], radius_mm=0.0)(item(matches(places)))["pred"]
    assert result.unique().tolist() == list(range(301))


def test_without_a_request_nothing_changes() -> None:
    data = item(matches([[1, 1, 1]]))
    data["image"].meta.pop(MATCH_REQUEST)
    assert PointsToLabeld(keys=["pred"])(data)["pred"] is data["pred"]
    assert "result" not in PointsToLabeld(keys=["pred"])(data)


def test_no_accepted_point_is_an_empty_label_map() -> None:
    matched = replace(matches([[1, 1, 1]]), accepted=torch.tensor([False]))
    assert int(PointsToLabeld(keys=["pred"])(item(matched))["pred"].max()) == 0


@pytest.mark.parametrize("settings", [{"radius_mm": -1.0}, {"drawn": "some"}])
def test_an_argument_out_of_its_range_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PointsToLabeld(keys=["pred"], **settings)
