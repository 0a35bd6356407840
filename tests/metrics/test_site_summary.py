# SPDX-License-Identifier: Apache-2.0
"""Scores per site and over unseen sites, by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.metrics import (
    SCORES,
    bootstrap_interval,
    case_means,
    stratified_interval,
    summarize_sites,
    summary_statistics,
)

# (case, site, Dice of class 1, Dice of class 2): means are 0.9 0.7 | 0.6 0.4 0.8 | 0.2 0.2
CASES = [
    ("a", "north", 1.0, 0.8), ("b", "north", 0.7, 0.7),
    ("c", "east", 0.5, 0.7), ("d", "east", 0.4, 0.4), ("e", "east", 0.9, 0.7),
    ("f", "west", 0.3, 0.1), ("g", "west", 0.2, 0.2),
]  # fmt: skip


def row(case: str, site: str, index: int, dice: float) -> dict[str, Any]:
    distances = {"hd95_mm": 10 * (1 - dice), "asd_mm": 1 - dice}
    return {"case": case, "site": site, "class": index, **dict.fromkeys(SCORES, dice), **distances}


ROWS = [row(case, site, index, dice) for case, site, *scores in CASES for index, dice in enumerate(scores, start=1)]


def test_each_site_has_the_statistics_of_its_cases() -> None:
    summary = summarize_sites(ROWS, "north", samples=200, seed=4)
    assert summary["source"] == ["north"]
    assert {site: (entry["in_domain"], entry["cases"]) for site, entry in summary["sites"].items()} == {
        "east": (False, 3), "north": (True, 2), "west": (False, 2),
    }  # fmt: skip
    assert summary["sites"]["east"]["dice"] == pytest.approx(summary_statistics([0.6, 0.4, 0.8], 200, 4))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_unseen_sites_count_alike_and_their_cases_too() -> None:
    unseen = summarize_sites(ROWS, "north", samples=200, seed=4)["unseen"]
    assert (unseen["sites"], unseen["cases"]) == (2, 5)
    mean = unseen["mean_of_sites"]["dice"]
    assert (mean["mean"], mean["n"]) == (pytest.approx((0.6 + 0.2) / 2), 2)
    assert (mean["low"], mean["high"]) == pytest.approx(
        stratified_interval([[0.6, 0.4, 0.8], [0.2, 0.2]], samples=200, seed=4)
    )
    pooled = unseen["pooled"]["dice"]
    assert pooled["mean"] == pytest.approx(2.2 / 5)
    assert (pooled["low"], pooled["high"]) == pytest.approx(bootstrap_interval([0.6, 0.4, 0.8, 0.2, 0.2], 200, 4))


def test_the_worst_site_has_the_smallest_overlap_and_the_largest_distance() -> None:
    worst = summarize_sites(ROWS, "north")["unseen"]["worst_site"]
    assert worst["dice"] == {"site": "west", "mean": pytest.approx(0.2)}
    assert worst["hd95_mm"] == {"site": "west", "mean": pytest.approx(8)}


def test_the_gap_is_in_domain_less_unseen() -> None:
    gap = summarize_sites(ROWS, "north")["gap"]
    assert gap["dice"]["mean"] == pytest.approx(0.8 - 0.4)
    assert gap["hd95_mm"]["mean"] == pytest.approx(2 - 6)
    assert gap["dice"]["low"] < 0.4 < gap["dice"]["high"]


def test_several_sources_count_alike() -> None:
    summary = summarize_sites(ROWS, ["north", "west"])
    assert summary["unseen"]["mean_of_sites"]["dice"]["mean"] == pytest.approx(0.6)
    assert summary["gap"]["dice"]["mean"] == pytest.approx((0.8 + 0.2) / 2 - 0.6)


def test_without_a_source_nothing_is_called_unseen() -> None:
    summary = summarize_sites(ROWS)
    assert summary.keys() == {"source", "sites"}
    assert {entry["in_domain"] for entry in summary["sites"].values()} == {None}


def test_what_is_missing_is_none() -> None:
    only = [entry for entry in ROWS if entry["site"] == "north"]
    assert summarize_sites(only, "north")["unseen"] is None
    assert set(summarize_sites(only, "north")["gap"].values()) == {None}
    others = summarize_sites([entry for entry in ROWS if entry["site"] != "north"], "north")
    assert others["gap"]["dice"] is None
    assert others["unseen"]["cases"] == 5
    single = summarize_sites([*ROWS, row("h", "south", 1, 0.5)], "north")
    assert single["unseen"]["mean_of_sites"]["dice"]["low"] is None  # one case at a site has no spread


def test_cases_without_a_site_count_nowhere() -> None:
    assert summarize_sites([*ROWS, row("h", "", 1, 0.0)], "north") == summarize_sites(ROWS, "north")


def test_rows_of_a_csv_file_are_read() -> None:
    text = [{key: str(value) for key, value in entry.items()} for entry in ROWS]
    assert case_means(text) == case_means(ROWS)


@pytest.mark.parametrize("value", ["", "much", None, float("nan")])
def test_a_row_without_its_score_is_named(value: object) -> None:
    with pytest.raises(InputError, match="case a: dice must be a number, got"):
        case_means([{**ROWS[0], "dice": value}])
