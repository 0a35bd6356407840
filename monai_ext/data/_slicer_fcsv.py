# SPDX-License-Identifier: Apache-2.0
"""3D Slicer's older format of a point list (.fcsv)."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from monai_ext.data._point_rows import PointRow, choose_space, make_list, read_text
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.spaces import to_space

logger = logging.getLogger(__name__)

HEADER = (
    "# Markups fiducial file version = 4.13\n"
    "# CoordinateSystem = {space}\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
)
_SPACE_CODES = {"RAS": "RAS", "LPS": "LPS", "0": "RAS", "1": "LPS"}  # before Slicer 4.11 it was a number
_LABEL, _DESCRIPTION, _STATUS, _DEFINED = 11, 12, 14, "2"  # the status has no title and is new in Slicer 5


def read_fcsv(path: Path, space: str | None) -> PointList:
    """Return the points of a .fcsv file; those without a position are left out, with a note in the log."""
    stated: str | None = None
    rows: list[PointRow] = []
    descriptions: list[str] = []
    unset: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.startswith("#"):
            key, _, value = (part.strip() for part in line[1:].partition("="))
            if key == "CoordinateSystem":
                stated = _space_of(value, path)
        elif line.strip():
            row, description, placed = _row_of(line, number, path)
            if placed:
                rows.append(row)
                descriptions.append(description)
            else:
                unset.append(row.name)
    if unset:
        logger.warning("%s: points without a position are left out: %s", path, ", ".join(unset))
    chosen = choose_space(path, stated, space, "add the line '# CoordinateSystem = LPS' (or RAS) to its header")
    return make_list(path, rows, chosen, {"description": descriptions} if any(descriptions) else {})


def write_fcsv(path: Path, points: PointList, space: str) -> None:
    """Write points as Slicer 4.11 and later read them; earlier versions take all files for RAS."""
    descriptions = points.extra.get("description", ("",) * len(points))
    for name, description in zip(points.names, descriptions, strict=True):
        if len(f"{name}{description}x".splitlines()) > 1:
            raise InputError(f"{path}: point {name!r} has a line break, which .fcsv cannot hold; rename it.")
    selected = points.extra.get("selected", ("1",) * len(points))
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        file.write(HEADER.format(space=space))
        writer = csv.writer(file, lineterminator="\n")
        positions = to_space(points.points, space).tolist()
        for number, row in enumerate(zip(points.names, positions, descriptions, selected, strict=True), start=1):
            name, position, description, chosen = row
            writer.writerow([number, *position, 0, 0, 0, 1, 1, int(chosen != "0"), 0, name, description, ""])


def _space_of(value: str, path: Path) -> str:
    if value.upper() not in _SPACE_CODES:
        raise InputError(f"{path}: CoordinateSystem must be LPS or RAS (0 is RAS, 1 is LPS), got {value!r}; mend it.")
    return _SPACE_CODES[value.upper()]


def _row_of(line: str, number: int, path: Path) -> tuple[PointRow, str, bool]:
    """Return a line's point, its description, and whether it has been placed."""
    try:
        fields = [field.strip() for field in next(csv.reader([line], strict=True))]
    except csv.Error as error:
        raise InputError(f"{path}: line {number} is no CSV ({error}); mend it.") from error
    if len(fields) < 4:
        raise InputError(f"{path}: line {number} must begin with id,x,y,z, got {line.strip()!r}; mend it.")
    fields += [""] * (_STATUS + 1 - len(fields))
    row = PointRow(f"line {number}", fields[_LABEL] or fields[0], fields[1:4])
    return row, fields[_DESCRIPTION], fields[_STATUS] in ("", _DEFINED)
