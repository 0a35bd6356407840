# SPDX-License-Identifier: Apache-2.0
"""Tracked lesions as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from monai_ext.files import write_json
from monai_ext.followup.match_table import rounded, world_columns
from monai_ext.followup.tracked_lesion import STATUSES, Place, TrackedLesion
from monai_ext.tables import write_table

FORMAT, VERSION = "monai_ext lesion tracking", 1
_PREFIXES = ("baseline", "followup", "listed")
_NUMBERS = ("score", "local_score", "global_score", "cycle_error_mm", "distance_mm", "limit_mm")
_SIZES = ("baseline_diameter_mm", "followup_diameter_mm", "change_mm", "change_percent")


def write_lesion_table(
    path: Path, followups: Sequence[str], tracked: Sequence[Sequence[TrackedLesion]], space: str, note: str = ""
) -> None:
    """Write a row for each lesion in each follow-up as CSV.

    Args:
        path: the file to write.
        followups: what each follow-up is called.
        tracked: the lesions of each.
        space: ``RAS`` or ``LPS``, of the places in the file.
        note: added to each reason.
    """
    places = [column for prefix in _PREFIXES for column in world_columns(prefix, space)]
    columns = ("followup", "lesion", "listed_as", "status", *places, *_NUMBERS, *_SIZES, "reason")
    rows = [
        {"followup": name, **_flat(lesion_content(lesion, space, note), space)}
        for name, lesions in zip(followups, tracked, strict=True)
        for lesion in lesions
    ]
    write_table(path, columns, rows)


def write_lesion_json(
    path: Path,
    baseline: Mapping[str, object],
    followups: Sequence[Mapping[str, object]],
    tracked: Sequence[Sequence[TrackedLesion]],
    space: str,
    how: Mapping[str, str],
    note: str = "",
) -> None:
    """Write the same as JSON, with what it rests on, counts and sums; ``docs/matching.md`` describes the fields.

    Args:
        path: the file to write.
        baseline: files of the baseline.
        followups: files of each follow-up.
        tracked: the lesions of each.
        space: ``RAS`` or ``LPS``, of the places in the file.
        how: weights and settings.
        note: what must be known of the network, empty if nothing.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "space": space,
        "unit": "mm",
        "note": note,
        "how": dict(how),
        "baseline": dict(baseline),
        "followups": [
            {
                **files,
                "counts": {status: sum(lesion.status == status for lesion in lesions) for status in STATUSES},
                "diameters": sum_of_diameters(lesions),
                "lesions": [lesion_content(lesion, space, note) for lesion in lesions],
            }
            for files, lesions in zip(followups, tracked, strict=True)
        ],
    }
    write_json(path, content)


def sum_of_diameters(lesions: Sequence[TrackedLesion]) -> dict[str, object]:
    """Add up the diameters of the matched lesions that have one at both times, and say how the sum has changed.

    Sums of longest diameters are what RECIST begins with; which lesions count, and what follows from a change, is not
    decided here.

    Example:
        >>> sum_of_diameters([])
        {'lesions': 0, 'baseline_mm': 0.0, 'followup_mm': 0.0, 'change_mm': 0.0, 'change_percent': None}
    """
    counted = [lesion for lesion in lesions if lesion.status == "matched" and lesion.change is not None]
    before = sum(lesion.baseline_diameter or 0.0 for lesion in counted)
    after = sum(lesion.followup_diameter or 0.0 for lesion in counted)
    return {
        "lesions": len(counted),
        "baseline_mm": round(before, 3) + 0.0,
        "followup_mm": round(after, 3) + 0.0,
        "change_mm": round(after - before, 3) + 0.0,
        "change_percent": round(100 * (after - before) / before, 2) if before else None,
    }


def lesion_content(lesion: TrackedLesion, space: str, note: str = "") -> dict[str, object]:
    """Return the fields of a lesion as JSON and the table have them, None where there is nothing."""
    places = zip(_PREFIXES, (lesion.baseline, lesion.followup, lesion.partner_place), strict=True)
    return {
        "lesion": lesion.lesion,
        "listed_as": lesion.partner,
        "status": lesion.status,
        **{name: _in_space(place, space) for name, place in places},
        "score": round(lesion.score, 4),
        "local_score": round(lesion.local_score, 4),
        "global_score": round(lesion.global_score, 4),
        "cycle_error_mm": round(lesion.cycle_error, 3),
        "distance_mm": _short(lesion.distance),
        "limit_mm": _short(lesion.limit),
        "baseline_diameter_mm": _short(lesion.baseline_diameter),
        "followup_diameter_mm": _short(lesion.followup_diameter),
        "change_mm": _short(lesion.change),
        "change_percent": _short(lesion.change_percent),
        "reason": "; ".join(part for part in (lesion.reason, note) if part),
    }


def _flat(content: dict[str, object], space: str) -> dict[str, object]:
    """Give each coordinate a column of its own."""
    flat = {name: value for name, value in content.items() if name not in _PREFIXES}
    for prefix in _PREFIXES:
        place = content[prefix]
        values = place if isinstance(place, list) else [None] * 3
        flat.update(zip(world_columns(prefix, space), values, strict=True))
    return flat


def _in_space(place: Place | None, space: str) -> list[float] | None:
    return None if place is None else rounded(torch.tensor([place], dtype=torch.float64), space)[0]


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3) + 0.0
