# SPDX-License-Identifier: Apache-2.0
"""Errors, shares and intervals of matched points, against sums written out by hand."""

from __future__ import annotations

import json
import math
from statistics import median, stdev
from typing import Any

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.metrics import (
    AXES,
    bootstrap_interval,
    case_landmarks,
    clustered_interval,
    cpm,
    hit_in_box,
    landmark_errors,
    per_axis,
    summarize_landmarks,
)


def draw(count: int = 40, axes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    true = 100 * torch.randn(count, axes, generator=generator, dtype=torch.float64)
    return true + 6 * torch.randn(count, axes, generator=generator, dtype=torch.float64), true


@pytest.mark.parametrize("axes", [2, 3])
def test_errors_are_those_of_a_loop(axes: int) -> None:
    found, true = draw(axes=axes)
    naive = [math.dist(one, other) for one, other in zip(found.tolist(), true.tolist(), strict=True)]
    assert landmark_errors(found, true).tolist() == pytest.approx(naive)
    expected = [
        [abs(a - b) for a, b in zip(*pair, strict=True)] for pair in zip(found.tolist(), true.tolist(), strict=True)
    ]
    np.testing.assert_allclose(per_axis(found, true), expected)


def test_the_error_does_not_depend_on_the_frame() -> None:
    found, true = draw()
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    moved = [places @ turn + 50 for places in (found, true)]
    torch.testing.assert_close(landmark_errors(*moved), landmark_errors(found, true))
    assert torch.equal(landmark_errors(true, found), landmark_errors(found, true))


def test_the_share_within_a_limit_counts_the_limit_itself() -> None:
    found, true = draw()
    errors = landmark_errors(found, true)
    naive = sum(error <= 10 for error in errors.tolist()) / len(errors)
    assert 0 < naive < 1
    assert cpm(errors, 10.0) == pytest.approx(naive)
    assert cpm(torch.tensor([10.0]), 10.0) == 1.0
    assert cpm(torch.tensor([10.0]), 9.9999) == 0.0


def test_lesions_without_a_radius_are_left_out() -> None:
    errors, radius = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, torch.nan, 2.5, 9.0])
    assert cpm(errors, radius) == pytest.approx(2 / 3)
    assert cpm(errors, torch.full((4,), torch.nan)) is None
    assert cpm(torch.zeros(0), 10.0) is None


def test_a_box_is_hit_within_its_faces_whatever_the_order_of_its_corners() -> None:
    found, true = draw()
    corners = torch.stack([true - torch.tensor([4.0, 6.0, 8.0]), true + 5], dim=1)
    naive = [
        all(min(low, high) <= place <= max(low, high) for place, low, high in zip(*row, strict=True))
        for row in zip(found.tolist(), *corners.unbind(1), strict=True)
    ]
    assert 0 < sum(naive) < len(naive)
    assert hit_in_box(found, corners).tolist() == naive
    shuffled = corners.clone()
    shuffled[:, :, 1] = corners[:, :, 1].flip(1)
    assert hit_in_box(found, shuffled).tolist() == naive
    assert hit_in_box(corners[:, 0], corners).all()


def test_a_ball_lies_in_its_box_so_the_published_share_is_at_least_as_high() -> None:
    found, true = draw(200)
    radius = torch.linspace(2, 14, 200, dtype=torch.float64)
    boxes = torch.stack([true - radius[:, None], true + radius[:, None]], dim=1)
    within = landmark_errors(found, true) <= radius
    hits = hit_in_box(found, boxes)
    assert (hits | ~within).all()
    assert hits.sum() > within.sum()


def test_a_box_that_is_not_known_is_not_hit() -> None:
    boxes = torch.tensor([[[0.0, 0, 0], [2, 2, torch.nan]], [[0.0, 0, 0], [2, 2, 2]]])
    assert hit_in_box(torch.ones(2, 3), boxes).tolist() == [False, True]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_places_that_are_no_places_are_refused_with_their_rows(bad: float) -> None:
    found, true = draw(5)
    found[3, 1] = bad
    with pytest.raises(InputError, match=r"found places of 1 of 5 points are not finite: \[3\]"):
        landmark_errors(found, true)
    with pytest.raises(InputError, match="true places of 1 of 5"):
        per_axis(true, found)
    with pytest.raises(InputError, match="errors must be finite"):
        cpm(torch.tensor([1.0, bad]), 10.0)
    with pytest.raises(InputError, match="found places must be finite"):
        hit_in_box(found, torch.zeros(5, 2, 3))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 3\)"):
        landmark_errors(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"got \(2, 3\) for \(2, 3\)"):
        hit_in_box(torch.zeros(2, 3), torch.zeros(2, 3))


def test_drawing_cases_is_the_bootstrap_where_each_has_one_value() -> None:
    values = np.random.default_rng(0).random(17)
    assert clustered_interval([[value] for value in values], 500, 3) == pytest.approx(
        bootstrap_interval(values, 500, 3)
    )


def test_drawing_cases_agrees_with_a_loop() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal(number, 1, size) for number, size in enumerate((2, 9, 4, 6))]
    generator = np.random.default_rng(5)
    drawn = [np.concatenate([groups[index] for index in draw]).mean() for draw in generator.integers(4, size=(300, 4))]
    assert clustered_interval(groups, 300, 5) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_points_of_one_case_do_not_make_a_mean_surer() -> None:
    random = np.random.default_rng(0)
    shifts = random.normal(0, 1, 8)
    width = [high - low for low, high in (clustered_interval([[shift] * size for shift in shifts]) for size in (1, 50))]
    assert width[1] == pytest.approx(width[0])
    pooled = bootstrap_interval(np.repeat(shifts, 50))
    assert pooled[1] - pooled[0] < width[1] / 3


def test_empty_cases_do_not_count_and_one_case_has_no_interval() -> None:
    groups = [[1.0, 2.0], [4.0], [8.0, 3.0]]
    assert clustered_interval([*groups, []]) == clustered_interval(groups)
    assert clustered_interval([[1.0, 2.0], []]) == (None, None)
    for arguments in ({"samples": 0}, {"level": 1.0}):
        with pytest.raises(ValueError, match="must be"):
            clustered_interval(groups, **arguments)


def rows(sizes: tuple[int, ...] = (5, 1, 9), seed: int = 0) -> list[dict[str, Any]]:
    """Points of some cases; a third is not accepted, and every other lesion has no radius."""
    random = np.random.default_rng(seed)
    made = []
    for case, size in enumerate(sizes):
        for index in range(size):
            apart = random.normal(0, 5, 3)
            error = float(np.linalg.norm(apart))
            made.append({
                "case": f"case {case}",
                "error_mm": error,
                **{f"{axis}_mm": float(abs(value)) for axis, value in zip(AXES, apart, strict=True)},
                "score": float(random.uniform(0.5, 1)),
                "cycle_error_mm": float(random.exponential(3)),
                "accepted": int(index % 3 != 1),
                "fallback": int(index == 0),
                "within_radius": int(error <= 8) if index % 2 else None,
                "in_box": int(error <= 9),
            })  # fmt: skip
    return made


@pytest.mark.parametrize("part", ["all", "accepted"])
def test_the_summary_holds_the_numbers_of_a_loop(part: str) -> None:
    made = rows()
    summary = summarize_landmarks(made, hit_mm=7.0, samples=200, seed=4)
    chosen = [row for row in made if part == "all" or row["accepted"]]
    errors = [row["error_mm"] for row in chosen]
    entry = summary[part]
    assert (summary["cases"], summary["points"], summary["fallbacks"], entry["points"]) == (3, 15, 3, len(chosen))
    assert entry["error_mm"]["mean"] == pytest.approx(sum(errors) / len(errors))
    assert entry["error_mm"]["std"] == pytest.approx(stdev(errors))
    assert entry["error_mm"]["median"] == pytest.approx(median(errors))
    assert entry["error_mm"]["max"] == max(errors)
    assert entry["cpm_7mm"]["mean"] == pytest.approx(sum(error <= 7 for error in errors) / len(errors))
    known = [row["within_radius"] for row in chosen if row["within_radius"] is not None]
    assert (entry["cpm_radius"]["n"], entry["cpm_radius"]["hits"]) == (len(known), sum(known))
    assert entry["hit_in_box"]["hits"] == sum(row["in_box"] for row in chosen)
    for axis in AXES:
        assert entry[f"{axis}_mm"]["mean"] == pytest.approx(np.mean([row[f"{axis}_mm"] for row in chosen]))
    groups = [[row["error_mm"] for row in chosen if row["case"] == case] for case in ("case 0", "case 1", "case 2")]
    assert (entry["error_mm"]["low"], entry["error_mm"]["high"]) == clustered_interval(groups, 200, 4)
    assert entry["error_mm"]["interval_over"] == "cases"
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_abstaining_is_told_both_ways() -> None:
    made = rows((6,))
    for row in made:
        row["error_mm"] = 2.0 if row["accepted"] else 50.0
    summary = summarize_landmarks(made)
    assert summary["coverage"]["mean"] == pytest.approx(4 / 6)
    assert summary["all"]["error_mm"]["mean"] == pytest.approx(18.0)
    assert summary["accepted"]["error_mm"]["mean"] == 2.0
    assert (summary["all"]["cpm_10mm"]["mean"], summary["accepted"]["cpm_10mm"]["mean"]) == (pytest.approx(4 / 6), 1.0)


def test_of_one_case_the_points_are_drawn_and_it_says_so() -> None:
    made = rows((12,))
    entry = summarize_landmarks(made, samples=300, seed=2)["all"]["error_mm"]
    assert entry["interval_over"] == "points"
    assert (entry["low"], entry["high"]) == bootstrap_interval([row["error_mm"] for row in made], 300, 2)


def test_what_is_not_known_is_none() -> None:
    made = [{**row, "accepted": 0, "in_box": None, "score": None} for row in rows((1,))]
    summary = summarize_landmarks(made)
    assert summary["all"]["hit_in_box"] == {
        "mean": None, "low": None, "high": None, "n": 0, "cases": 0, "interval_over": None, "hits": 0,
    }  # fmt: skip
    assert (summary["all"]["score"]["mean"], summary["all"]["error_mm"]["std"]) == (None, None)
    assert summary["all"]["error_mm"]["interval_over"] is None
    assert summary["accepted"]["error_mm"]["mean"] is None


def test_a_case_has_the_means_of_its_points() -> None:
    made = rows((7,))
    case = case_landmarks(made, hit_mm=7.0)
    assert (case["points"], case["accepted"], case["fallbacks"], case["coverage"]) == (7, 5, 1, pytest.approx(5 / 7))
    summary = summarize_landmarks(made, hit_mm=7.0)
    for prefix, part in (("", "all"), ("accepted_", "accepted")):
        for name in ("error_mm", "right_left_mm", "cycle_error_mm", "score", "cpm_7mm", "cpm_radius", "hit_in_box"):
            assert case[f"{prefix}{name}"] == pytest.approx(summary[part][name]["mean"])
    assert case["error_max_mm"] == summary["all"]["error_mm"]["max"]
    assert case["error_std_mm"] == pytest.approx(summary["all"]["error_mm"]["std"])
