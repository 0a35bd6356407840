# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation of matching, and the comparison with another run's."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.metrics.paired_tests import compare_cases

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def read_other_cases(compare_to: Path, score: str) -> list[Row]:
    """Return the rows of another run's ``cases.csv``, given its folder or the file.

    Raises:
        InputError: if it cannot be read, or was scored by other limits.
    """
    path = compare_to / "cases.csv" if compare_to.is_dir() else compare_to
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows: list[Row] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); set compare_to to the folder of another run.") from error
    missing = [name for name in ("case", "points", "error_mm", score) if not rows or name not in rows[0]]
    if missing:
        raise InputError(
            f"{path}: no rows with {', '.join(missing)}; set compare_to to the folder of another run of matching with "
            "the same hit_mm."
        )
    return rows


def compare_landmarks(
    rows: Sequence[Row], other_rows: Sequence[Row], score: str, samples: int, seed: int
) -> dict[str, object]:
    """Compare two runs case by case by their mean errors and their CPM: this one less the other."""
    found: dict[str, dict[str, Any]] = {
        name: compare_cases(_comparable(rows), _comparable(other_rows), name, None, samples, seed)
        for name in ("error_mm", score)
    }
    unmatched = {name: entry.pop("unmatched") for name, entry in found.items()}["error_mm"]
    lost = {
        "only_here": unmatched["only_here"],
        "only_there": unmatched["only_there"],
        "other_number_of_points": unmatched["other_truth"],
    }
    _log(found["error_mm"], lost)
    return {"scores": found, "unmatched": lost}


def _comparable(rows: Sequence[Row]) -> list[Row]:
    """Return rows as for a segmentation of one class, whose size is the number of points."""
    return [{**row, "class": 1, "truth_voxels": row["points"]} for row in rows]


def _log(error: Mapping[str, Any], lost: Mapping[str, list[str]]) -> None:
    if any(lost.values()):
        logger.warning("cases that are not compared: %s", {why: len(cases) for why, cases in lost.items() if cases})
    overall = error["unseen"]
    if overall is not None:
        p = "none" if overall["p"] is None else f"{overall['p']:.3g}"
        logger.info(
            "against the other run: %s, mean error %+.3f mm over %d cases, p %s",
            error["verdict"], overall["mean_difference"], overall["n"], p,
        )  # fmt: skip
