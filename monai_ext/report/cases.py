# SPDX-License-Identifier: Apache-2.0
"""The rows of cases.csv put together: one object per case, ranked by its mean Dice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monai_ext.report.reading import number_of


@dataclass(frozen=True)
class ScoredCase:
    """One case: its files and, per class, its row of cases.csv.

    Attributes:
        name: the case's name.
        files: paths of ``image``, ``label`` and ``prediction``; a path that was not written is absent.
        rows: one row per class.
        dice: mean Dice over the classes where it is defined, or None.
    """

    name: str
    files: dict[str, Path]
    rows: list[dict[str, str]]
    dice: float | None


def group_cases(rows: list[dict[str, str]]) -> list[ScoredCase]:
    """Return one `ScoredCase` per case, in the order of the file.

    Example:
        >>> group_cases([{"case": "a", "dice": "0.8"}, {"case": "a", "dice": "0.6"}])[0].dice
        0.7
    """
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["case"], []).append(row)
    return [_make_case(name, group) for name, group in groups.items()]


def best_median_worst(cases: list[ScoredCase]) -> list[tuple[str, ScoredCase]]:
    """Return up to three cases with their rank's name, each case once; those without a score are left out."""
    ranked = sorted((case for case in cases if case.dice is not None), key=lambda case: case.dice or 0.0)
    if not ranked:
        return [("first", case) for case in cases[:1]]
    if len(ranked) == 1:
        return [("only", ranked[0])]
    chosen = [("best", ranked[-1]), ("median", ranked[len(ranked) // 2]), ("worst", ranked[0])]
    return chosen if len(ranked) > 2 else [chosen[0], chosen[2]]


def class_names(rows: list[dict[str, str]]) -> dict[int, str]:
    """Return class index to name, by index; a class without a name is called by its number."""
    names: dict[int, str] = {}
    for row in rows:
        index = number_of(row.get("class"))
        if index is not None and index >= 1:
            names.setdefault(int(index), row.get("class_name") or f"class {int(index)}")
    return dict(sorted(names.items()))


def _make_case(name: str, rows: list[dict[str, str]]) -> ScoredCase:
    files = {key: Path(rows[0][key]) for key in ("image", "label", "prediction") if rows[0].get(key)}
    scores = [score for row in rows if (score := number_of(row.get("dice"))) is not None]
    return ScoredCase(name, files, rows, round(sum(scores) / len(scores), 6) if scores else None)
