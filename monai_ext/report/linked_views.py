# SPDX-License-Identifier: Apache-2.0
"""The pictures of all points in both scans of each pair, as many as a page can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from monai_ext.errors import InputError
from monai_ext.report.linked_points import LinkedPoint, LinkedScans, Place
from monai_ext.report.loaded import window_of
from monai_ext.report.point_views import View, point_views
from monai_ext.report.scans import PLANES, VolumeScan, read_scan

FIELD_MM = 200.0
SIDE = 256  # pixels: 0.8 mm each


class LinkedViews(NamedTuple):
    """What the page's script reads.

    Attributes:
        points: in the order of the list: ``group`` (number of the pair), ``name``, ``status``, ``kind``, ``facts``,
            ``placed`` (whether there is a place in each scan) and ``views`` in both (by plane, see `point_views`, with
            ``alt``), None where there is no place or picture.
        notes: sentences on what is shown and what was left out.
    """

    points: list[dict[str, object]]
    notes: list[str]


def draw_views(groups: Sequence[LinkedScans], window: tuple[float, float] | None, budget: int) -> LinkedViews:
    """Draw points until a pair's share of ``budget`` characters is used up.

    Raises:
        InputError: a scan cannot be read, or is no volume.
    """
    points: list[dict[str, object]] = []
    notes: list[str] = []
    drawn = 0
    for number, group in enumerate(groups):
        scans = [_volume(path) for path in group.scans] if group.points else []
        windows = [window or window_of(scan) for scan in scans]
        field = min(FIELD_MM, max((_extent(scan) for scan in scans), default=FIELD_MM))
        left = budget // max(1, len(groups))
        for point in group.points:
            views: list[dict[str, View] | None] = [None, None]
            if left > 0:
                sides = zip(scans, windows, (point.fixed, point.moving), group.titles, strict=True)
                views = [_views(*side, point.name, field) for side in sides]
                left -= sum(len(str(view["src"])) for side in views if side for view in side.values())
                drawn += 1
            points.append(_data(number, point, views))
        notes += [
            f"{title}: intensities {low:g} to {high:g} are black to white."
            for title, (low, high) in zip(group.titles, windows, strict=False)
        ]
    if drawn < len(points):
        notes.append(
            f"Pictures of {drawn} of {len(points)} points; those of the others would make this file larger than "
            f"{budget / 1e6:g} MB and were left out. All numbers are there."
        )
    return LinkedViews(points, list(dict.fromkeys(notes)))


def _volume(path: object) -> VolumeScan:
    scan = read_scan(path)  # type: ignore[arg-type]
    if not isinstance(scan, VolumeScan):
        raise InputError(f"{path}: is a picture, linked views are of volumes; leave the report out.")
    return scan


def _extent(scan: VolumeScan) -> float:
    return max(size for plane in PLANES for size in scan.size_mm(plane))


def _views(
    scan: VolumeScan, window: tuple[float, float], place: Place | None, title: str, name: str, field: float
) -> dict[str, View] | None:
    if place is None:
        return None
    views = point_views(scan, place, window, field, SIDE)
    return {plane: {**view, "alt": f"{title}, {name}: {plane} {view['caption']}"} for plane, view in views.items()}


def _data(group: int, point: LinkedPoint, views: Sequence[Mapping[str, View] | None]) -> dict[str, object]:
    facts = [list(fact) for fact in point.facts]
    placed = [point.fixed is not None, point.moving is not None]
    common = {"group": group, "name": point.name, "status": point.status, "kind": point.kind, "placed": placed}
    return {**common, "facts": facts, "views": list(views)}
