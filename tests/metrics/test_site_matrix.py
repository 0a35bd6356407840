# SPDX-License-Identifier: Apache-2.0
"""The matrix of source by target is what its runs say, one by one."""

from __future__ import annotations

import pytest

from monai_ext.metrics import SCORES, summarize_sites
from monai_ext.metrics.site_matrix import compare_matrices, site_matrix

DICE = {
    "north": {"north": (0.9, 0.8), "south": (0.5, 0.7), "west": (0.4,)},
    "south": {"north": (0.6, 0.6), "south": (0.95,), "west": (0.3,)},
}


def rows_of(cells: dict[str, tuple[float, ...]], shift: float = 0.0) -> list[dict[str, object]]:
    return [
        {
            "case": f"{site}_{number}", "image": f"/{site}/{number}.nii", "site": site, "class": 1, "truth_voxels": "7",
            **dict.fromkeys(SCORES, str(dice + shift)),
        }
        for site, values in cells.items()
        for number, dice in enumerate(values)
    ]  # fmt: skip


RUNS = {source: rows_of(cells) for source, cells in DICE.items()}


def test_each_row_is_its_run_by_itself() -> None:
    matrix = site_matrix(RUNS, samples=50)
    for source, rows in RUNS.items():
        assert matrix["cells"][source] == summarize_sites(rows, source, samples=50)["sites"]
    assert matrix["cells"]["north"]["south"]["dice"]["mean"] == pytest.approx(0.6)
    assert [cell["in_domain"] for cell in matrix["cells"]["south"].values()] == [False, True, False]


def test_unseen_pairs_count_alike_and_own_sites_do_not_count() -> None:
    matrix = site_matrix(RUNS, samples=50)
    unseen = matrix["unseen"]
    assert (unseen["pairs"], unseen["cases"]) == (4, 6)
    assert unseen["mean_of_pairs"]["dice"]["mean"] == pytest.approx((0.6 + 0.4 + 0.6 + 0.3) / 4)
    assert unseen["worst_pair"]["dice"] == {"source": "south", "target": "west", "mean": pytest.approx(0.3)}
    assert unseen["worst_pair"]["hd95_mm"]["mean"] == pytest.approx(0.6)  # of distances the largest is the worst
    assert matrix["gap"]["dice"]["mean"] == pytest.approx((0.85 + 0.95) / 2 - 0.475)


def test_without_own_cases_there_is_no_gap() -> None:
    matrix = site_matrix({"east": rows_of(DICE["north"])}, samples=50)
    assert matrix["gap"] is None
    assert matrix["unseen"]["pairs"] == 3


def test_without_other_sites_there_is_nothing_unseen() -> None:
    matrix = site_matrix({"north": rows_of({"north": (0.9, 0.8)})}, samples=50)
    assert matrix["unseen"] is None


def test_a_method_against_itself_and_against_a_better_one() -> None:
    same = compare_matrices(RUNS, RUNS, samples=50)
    assert same["verdict"] == "equal"
    assert same["unseen"]["n"] == 6
    better = {source: rows_of(cells, shift=0.05) for source, cells in DICE.items()}
    worse = compare_matrices(RUNS, better, samples=50)
    assert worse["unseen"]["mean_difference"] == pytest.approx(-0.05)
    assert worse["verdict"] == "worse"
    assert set(worse["sites"]) == {f"{source} to {target}" for source, cells in DICE.items() for target in cells}
