# SPDX-License-Identifier: Apache-2.0
"""3D Slicer's format of a point list (.mrk.json), schema 1.0.3."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from monai_ext.data._point_rows import PointRow, choose_space, make_list, read_text
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError
from monai_ext.files import write_json
from monai_ext.spaces import check_space, to_space

logger = logging.getLogger(__name__)

# an identifier, not an address to fetch: Slicer looks at its end alone
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_DEFAULT_SPACE = "LPS"  # of the schema, for a list that does not say
_UPRIGHT = {"RAS": [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0], "LPS": [-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0]}


def read_markups(path: Path, space: str | None) -> PointList:
    """Return the points of the one point list in a file; those without a position are left out, with a note."""
    markup = _point_list(path)
    units = markup.get("coordinateUnits", "mm")
    if units != "mm" and not (isinstance(units, list) and units[:1] == ["mm"]):
        raise InputError(f"{path}: coordinateUnits must be mm, got {units!r}; save it in mm.")
    stated = _stated_space(markup["coordinateSystem"], path) if "coordinateSystem" in markup else None
    rows, descriptions, unset = [], [], []
    for number, point in enumerate(_control_points(markup, path), start=1):
        row = _row_of(point, number, path)
        if row is None:
            unset.append(str(point.get("label") or point.get("id") or number))
            continue
        rows.append(row)
        descriptions.append(str(point.get("description") or ""))
    if unset:
        logger.warning("%s: points without a position are left out: %s", path, ", ".join(unset))
    chosen = choose_space(path, stated, space or stated or _DEFAULT_SPACE, "")
    return make_list(path, rows, chosen, {"description": descriptions} if any(descriptions) else {})


def write_markups(path: Path, points: PointList, space: str) -> None:
    """Write points as one point list."""
    descriptions = points.extra.get("description", ("",) * len(points))
    selected = points.extra.get("selected", ("1",) * len(points))
    positions = to_space(points.points, space).tolist()
    control_points = [
        {
            "id": str(number),
            "label": name,
            "description": description,
            "associatedNodeID": "",
            "position": position,
            "orientation": _UPRIGHT[space],
            "selected": chosen != "0",
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for number, (name, position, description, chosen) in enumerate(
            zip(points.names, positions, descriptions, selected, strict=True), start=1
        )
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": space,
        "coordinateUnits": "mm",
        "controlPoints": control_points,
    }
    write_json(path, {"@schema": SCHEMA, "markups": [markup]})


def _point_list(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}); save it anew from 3D Slicer.") from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not all(isinstance(markup, dict) for markup in markups):
        raise InputError(f"{path}: has no list 'markups'; save a point list from 3D Slicer as Markups JSON.")
    found = [markup for markup in markups if markup.get("type") == "Fiducial"]
    if len(found) != 1:
        kinds = ", ".join(str(markup.get("type")) for markup in markups) or "nothing"
        raise InputError(f"{path}: must hold one list of type 'Fiducial', got {kinds}; save one point list alone.")
    return found[0]


def _stated_space(value: object, path: Path) -> str:
    try:
        return check_space(str(value))
    except InputError as error:
        raise InputError(f"{path}: coordinateSystem must be LPS or RAS, got {value!r}; mend it.") from error


def _control_points(markup: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    points = markup.get("controlPoints", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InputError(f"{path}: controlPoints must be a list of objects; save it anew from 3D Slicer.")
    return points


def _row_of(point: dict[str, Any], number: int, path: Path) -> PointRow | None:
    """Return a control point, None where it has not been placed."""
    if point.get("positionStatus", "defined") != "defined":
        return None
    name = str(point.get("label") or point.get("id") or number)
    position = point.get("position")
    if not isinstance(position, list) or len(position) != 3:
        raise InputError(
            f"{path}: control point {number} ({name!r}) must have a position of 3 numbers, got {position!r}; mend it."
        )
    return PointRow(f"control point {number}", name, position)
