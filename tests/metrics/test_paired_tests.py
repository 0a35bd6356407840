# SPDX-License-Identifier: Apache-2.0
"""Two runs on the same cases, by hand and against SciPy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from monai_ext.metrics import bootstrap_interval, compare_cases, stratified_interval

Rows = list[dict[str, Any]]


def make_rows(seed: int = 0, shift: float = 0.0, sizes: tuple[int, ...] = (6, 8, 10)) -> Rows:
    """Two classes per case of the sites s0, s1, ...; ``shift`` is added to all of them."""
    random = np.random.default_rng(seed)
    return [
        {
            "case": f"s{site}-{number}", "image": f"/data/s{site}/{number}.nii.gz", "site": f"s{site}",
            "class": index, "dice": 0.5 + shift + random.normal(0, 0.05), "truth_voxels": 100 * index + number,
        }
        for site, size in enumerate(sizes) for number in range(size) for index in (1, 2)
    ]  # fmt: skip


def means(rows: Rows, site: str) -> np.ndarray:
    dice = np.array([row["dice"] for row in rows if row["site"] == site])
    return dice.reshape(-1, 2).mean(axis=1)


def test_a_run_is_equal_to_itself() -> None:
    rows = make_rows()
    result = compare_cases(rows, rows)
    assert result["verdict"] == "equal"
    assert (result["unseen"]["n"], result["unseen"]["mean_difference"], result["unseen"]["p"]) == (24, 0.0, None)
    assert (result["unseen"]["low"], result["unseen"]["high"]) == (0.0, 0.0)
    assert {site["p_holm"] for site in result["sites"].values()} == {None}
    assert result["sites"]["s0"]["note"] == "no pair differs"
    assert result["unmatched"] == {"only_here": [], "only_there": [], "other_classes": [], "other_truth": []}


def test_sites_and_unseen_cases_are_compared_as_scipy_does() -> None:
    rows, others = make_rows(0), make_rows(1, shift=-0.04)
    result = compare_cases(rows, others, source_site="s0", samples=300, seed=2)
    differences = {site: means(rows, site) - means(others, site) for site in ("s0", "s1", "s2")}
    for site, entry in result["sites"].items():
        assert entry["in_domain"] == (site == "s0")
        assert entry["n"] == len(differences[site])
        assert entry["mean_difference"] == pytest.approx(differences[site].mean())
        assert (entry["low"], entry["high"]) == pytest.approx(bootstrap_interval(differences[site], 300, 2))
        assert entry["p"] == pytest.approx(wilcoxon(differences[site], method="exact").pvalue)
    unseen = np.concatenate([differences["s1"], differences["s2"]])
    assert result["unseen"]["n"] == 18
    assert result["unseen"]["mean_difference"] == pytest.approx(unseen.mean())
    assert result["unseen"]["p"] == pytest.approx(wilcoxon(unseen, method="exact").pvalue)
    of_sites = result["unseen"]["mean_of_sites"]
    assert of_sites["mean_difference"] == pytest.approx((differences["s1"].mean() + differences["s2"].mean()) / 2)
    assert (of_sites["low"], of_sites["high"]) == pytest.approx(
        stratified_interval([differences["s1"], differences["s2"]], samples=300, seed=2)
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_p_values_of_sites_are_corrected_by_holm() -> None:
    result = compare_cases(make_rows(0), make_rows(1, shift=-0.03))
    p = {site: entry["p"] for site, entry in result["sites"].items()}
    first, second, third = sorted(p, key=p.__getitem__)
    holm = {site: entry["p_holm"] for site, entry in result["sites"].items()}
    assert holm[first] == pytest.approx(min(1, 3 * p[first]))
    assert holm[second] == pytest.approx(min(1, max(3 * p[first], 2 * p[second])))
    assert holm[third] == pytest.approx(min(1, max(3 * p[first], 2 * p[second], p[third])))


def test_exchanging_the_runs_turns_the_sign_and_the_verdict() -> None:
    rows, others = make_rows(0), make_rows(1, shift=-0.1)
    one, two = compare_cases(rows, others), compare_cases(others, rows)
    assert (one["verdict"], two["verdict"]) == ("better", "worse")
    assert one["unseen"]["mean_difference"] == pytest.approx(-two["unseen"]["mean_difference"])
    assert one["unseen"]["p"] == two["unseen"]["p"]


def test_a_smaller_distance_is_better() -> None:
    rows = [{**row, "hd95_mm": 1 - row["dice"]} for row in make_rows(0)]
    others = [{**row, "hd95_mm": 1 - row["dice"]} for row in make_rows(1, shift=-0.1)]
    result = compare_cases(rows, others, score="hd95_mm")
    assert (result["verdict"], result["higher_is_better"]) == ("better", False)


def test_few_pairs_show_nothing_and_say_why() -> None:
    rows, others = make_rows(0, sizes=(4,)), make_rows(0, shift=-0.3, sizes=(4,))
    result = compare_cases(rows, others)
    assert (result["unseen"]["p"], result["verdict"]) == (0.125, "no difference shown")
    assert result["unseen"]["note"] == "4 pairs that differ cannot give a p below 0.125"


def test_a_moved_data_set_is_matched_by_the_names_of_its_cases() -> None:
    rows = make_rows()
    moved = [{**row, "image": row["image"].replace("/data", "/elsewhere")} for row in reversed(rows)]
    assert compare_cases(rows, moved)["unseen"]["n"] == 24


def test_renamed_cases_are_matched_by_their_image() -> None:
    rows = make_rows()
    renamed = [{**row, "case": f"{row['case']}_2"} for row in rows]
    assert compare_cases(rows, renamed)["unseen"]["n"] == 24


def test_slices_of_one_image_are_told_apart_by_name() -> None:
    rows = [{**row, "image": "/data/one.nii.gz"} for row in make_rows()]
    result = compare_cases(rows, rows[:-4])
    assert result["unseen"]["n"] == 22
    assert result["unmatched"]["only_here"] == ["s2-8", "s2-9"]


def test_what_does_not_match_is_listed() -> None:
    rows = make_rows(sizes=(5,))
    others = [
        *rows[:2],  # the same
        {**rows[2], "truth_voxels": 1}, rows[3],  # another label
        rows[4],  # a class less
        *[{**row, "case": "new", "image": "/data/new.nii.gz"} for row in rows[6:8]],
        *[{**row, "image": "", "site": "elsewhere"} for row in rows[8:]],
    ]  # fmt: skip
    result = compare_cases(rows, others)
    assert result["unseen"]["n"] == 1
    assert result["unmatched"] == {
        "only_here": ["s0-3", "s0-4"],
        "only_there": ["new", "s0-4"],
        "other_classes": ["s0-2"],
        "other_truth": ["s0-1"],
    }


def test_a_case_of_the_other_run_is_used_once() -> None:
    first, second = make_rows(sizes=(2,))[::2]
    rows = [{**first, "case": "q"}, {**second, "case": "y"}]
    result = compare_cases(rows, [{**first, "case": "y"}])  # by image it is q, by name it would be y too
    assert result["unseen"]["n"] == 1
    assert result["unmatched"]["only_here"] == ["y"]


def test_cases_without_a_site_are_not_unseen() -> None:
    rows = make_rows(sizes=(2, 3))
    nowhere = [{**row, "site": "" if row["case"] == "s1-0" else row["site"]} for row in rows]
    assert compare_cases(nowhere, nowhere, source_site="s0")["unseen"]["n"] == 2
    assert compare_cases(nowhere, nowhere)["unseen"]["n"] == 5


def test_nothing_in_common_is_no_comparison() -> None:
    result = compare_cases(make_rows(sizes=(2,)), [])
    assert (result["unseen"], result["sites"], result["verdict"]) == (None, {}, "no case to compare")
