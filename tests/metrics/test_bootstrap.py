# SPDX-License-Identifier: Apache-2.0
"""Intervals and summaries over cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_ext.metrics import SCORES, bootstrap_interval, summarize_cases, summary_statistics


def test_the_interval_of_many_cases_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, size=400)
    low, high = bootstrap_interval(values, samples=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half / 10)
    assert high == pytest.approx(values.mean() + half, abs=half / 10)


def test_the_interval_moves_and_scales_with_the_values() -> None:
    values = np.random.default_rng(1).random(12)
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(3 * values + 1) == pytest.approx((3 * low + 1, 3 * high + 1))


def test_a_higher_level_and_fewer_cases_widen_the_interval() -> None:
    values = np.random.default_rng(1).random(64)
    width = [high - low for low, high in (bootstrap_interval(values, level=level) for level in (0.5, 0.9, 0.99))]
    assert width == sorted(width)
    few = bootstrap_interval(values[:8])
    assert few[1] - few[0] > width[1]


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).random(9)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_drawing_in_small_pieces_is_bounded_by_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_ext.metrics.bootstrap._NUMBERS_AT_ONCE", 30)
    low, high = bootstrap_interval(np.arange(9.0), samples=1000)
    assert 0 < low < 4 < high < 8


@pytest.mark.parametrize("values", [[], [0.7]])
def test_one_case_says_nothing_about_the_spread(values: list[float]) -> None:
    assert bootstrap_interval(values) == (None, None)
    summary = summary_statistics(values)
    assert (summary["std"], summary["low"], summary["n"]) == (None, None, len(values))


@pytest.mark.parametrize("arguments", [{"samples": 0}, {"level": 1.0}, {"level": 0.0}])
def test_senseless_settings_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        bootstrap_interval([0.1, 0.2], **arguments)


def row(case: str, index: int, dice: float, site: str) -> dict[str, object]:
    return {"case": case, "site": site, "class": index, "class_name": f"c{index}", **dict.fromkeys(SCORES, dice)}


def test_cases_are_summarised_per_class_per_case_and_per_site() -> None:
    rows = [row("a", 1, 0.2, "x"), row("a", 2, 0.6, "x"), row("b", 1, 0.4, "y"), row("b", 2, 1.0, "y")]
    summary = summarize_cases([*rows, row("c", 1, 0.6, "y"), row("c", 2, 0.2, "y")])
    assert summary["cases"] == 3
    assert [entry["name"] for entry in summary["classes"]] == ["c1", "c2"]
    assert summary["classes"][0]["metrics"]["iou"]["mean"] == pytest.approx(0.4)
    # per-case means are 0.4, 0.7, 0.4
    assert summary["mean_foreground"]["dice"]["mean"] == pytest.approx(0.5)
    assert summary["mean_foreground"]["dice"]["median"] == pytest.approx(0.4)
    assert summary["mean_foreground"]["dice"]["std"] == pytest.approx(np.std([0.4, 0.7, 0.4], ddof=1))
    assert summary["sites"]["y"]["dice"] == pytest.approx(0.55)
    assert summary["sites"]["y"]["cases"] == 2


def test_a_site_without_a_name_is_no_site() -> None:
    assert summarize_cases([row("a", 1, 0.2, "")])["sites"] == {}
