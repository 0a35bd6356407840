# SPDX-License-Identifier: Apache-2.0
"""Matched points and tracked lesions as pages of linked views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_ext.data.point_list import PointList
from monai_ext.followup.tracked_lesion import TrackedLesion
from monai_ext.matching import MatchedPoints
from monai_ext.report.linked_page import linked_page
from monai_ext.report.linked_points import LinkedPoint, LinkedScans, Place

Window = tuple[float, float]
KINDS = {"found": "good", "matched": "good", "uncertain": "open", "lost": "bad", "new": "bad"}
_MATCH_LEAD = (
    "Each point of the fixed scan, and the place of the moving scan that resembles it most. The score is the mean "
    "similarity, 1 at most; the cycle error says how far away from the point the match leads back."
)
_TRACK_LEAD = (
    "What has become of each lesion of the baseline. All numbers are arithmetic on matched places and on the diameters "
    "that were given; none of them is a finding."
)


def match_page(
    scans: tuple[Path, Path],
    points: PointList,
    matched: MatchedPoints,
    how: Mapping[str, str],
    note: str = "",
    window: Window | None = None,
) -> str:
    """Return the page of one pair; see `linked_page`."""
    linked = [
        LinkedPoint(
            name,
            *(("accepted", "good") if bool(matched.accepted[index]) else ("uncertain", "open")),
            _place(points.points[index].tolist()),
            _place(matched.points[index].tolist()),
            _match_facts(matched, index),
        )
        for index, name in enumerate(points.names)
    ]
    titles = (f"fixed: {scans[0].name}", f"moving: {scans[1].name}")
    group = LinkedScans(titles, scans, linked)
    return linked_page("Matched points", _MATCH_LEAD, [group], "match", how, _warnings(note), window)


def track_page(
    baseline: Path,
    followups: Sequence[Path],
    tracked: Sequence[Sequence[TrackedLesion]],
    how: Mapping[str, str],
    note: str = "",
    window: Window | None = None,
) -> str:
    """Return the page of a baseline with its follow-ups, in their order; see `linked_page`."""
    groups = [
        LinkedScans(
            (f"baseline: {baseline.name}", f"follow-up {number}: {scan.name}"),
            (baseline, scan),
            [_lesion(lesion) for lesion in lesions],
        )
        for number, (scan, lesions) in enumerate(zip(followups, tracked, strict=True), start=1)
    ]
    return linked_page("Tracked lesions", _TRACK_LEAD, groups, "track", how, _warnings(note), window)


def _match_facts(matched: MatchedPoints, index: int) -> list[tuple[str, str]]:
    return [
        ("score", f"{float(matched.score[index]):.3f}"),
        ("local", f"{float(matched.local_score[index]):.3f}"),
        ("global", f"{float(matched.global_score[index]):.3f}"),
        ("cycle error", f"{float(matched.cycle_error[index]):.1f} mm"),
        ("anchors", str(int(matched.anchors[index]))),
        ("place, RAS mm", _coordinates(_place(matched.points[index].tolist()))),
        *([("note", matched.reasons[index])] if matched.reasons[index] else []),
    ]


def _lesion(lesion: TrackedLesion) -> LinkedPoint:
    facts = [
        ("score", f"{lesion.score:.3f}"),
        ("cycle error", f"{lesion.cycle_error:.1f} mm"),
        ("place, RAS mm", _coordinates(lesion.followup)),
        ("listed as", lesion.partner or "–"),
        ("distance", _millimetres(lesion.distance)),
        ("diameter before", _millimetres(lesion.baseline_diameter)),
        ("diameter after", _millimetres(lesion.followup_diameter)),
        ("change", _change(lesion)),
        *([("note", lesion.reason)] if lesion.reason else []),
    ]
    name = lesion.lesion if lesion.lesion is not None else f"{lesion.partner} (not at baseline)"
    return LinkedPoint(name, lesion.status, KINDS[lesion.status], lesion.baseline, lesion.followup, facts)


def _warnings(note: str) -> list[str]:
    return [f"{note[:1].upper()}{note[1:]}: what this page shows is a try and means nothing."] if note else []


def _place(point: Sequence[float]) -> Place:
    x, y, z = point
    return x, y, z


def _coordinates(place: Place) -> str:
    return ", ".join(f"{value:.1f}" for value in place)


def _millimetres(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} mm"


def _change(lesion: TrackedLesion) -> str:
    if lesion.change is None:
        return "–"
    percent = "" if lesion.change_percent is None else f" ({lesion.change_percent:+.0f} %)"
    return f"{lesion.change:+.1f} mm{percent}"
