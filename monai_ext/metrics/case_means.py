# SPDX-License-Identifier: Apache-2.0
"""From one row per case and class to one value per case and score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from monai_ext.errors import InputError
from monai_ext.metrics.segmentation import SCORES


class CaseMean(NamedTuple):
    """A case: ``scores`` are means over its foreground classes, ``truth_voxels`` what the label has of each class."""

    name: str
    image: str
    site: str
    scores: dict[str, float]
    truth_voxels: dict[int, int | None]


def case_means(rows: Sequence[Mapping[str, object]], scores: Sequence[str] = SCORES) -> list[CaseMean]:
    """Return one entry per case, in the order in which cases appear.

    Args:
        rows: one per case and class, as `CaseScores` writes them; numbers may be text, as a CSV file gives them.
        scores: the columns to average.

    Raises:
        InputError: if a row has no number for one of the scores.

    Example:
        >>> rows = [{"case": "a", "class": 1, "dice": 0.5}, {"case": "a", "class": 2, "dice": "1.0"}]
        >>> case_means(rows, ["dice"])[0].scores
        {'dice': 0.75}
    """
    grouped: dict[str, list[Mapping[str, object]]] = {}
    for row in rows:
        grouped.setdefault(str(row["case"]), []).append(row)
    return [
        CaseMean(
            name=name,
            image=str(own[0].get("image") or ""),
            site=str(own[0].get("site") or ""),
            scores={score: float(np.mean([_number(row, score) for row in own])) for score in scores},
            truth_voxels={int(_number(row, "class")): _count(row) for row in own},
        )
        for name, own in grouped.items()
    ]


def _number(row: Mapping[str, object], key: str) -> float:
    try:
        number = float(row[key])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"case {row['case']}: {key} must be a number, got {row.get(key)!r}; score it again.")
    return number


def _count(row: Mapping[str, object]) -> int | None:
    return int(_number(row, "truth_voxels")) if row.get("truth_voxels") not in (None, "") else None
