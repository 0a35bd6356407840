# SPDX-License-Identifier: Apache-2.0
"""Points in tables: CSV whose columns name the space and the unit."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_ext.data._point_rows import PointRow, choose_space, make_list, read_text
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError
from monai_ext.spaces import SPACES, check_space, to_space
from monai_ext.tables import write_table

NAME_COLUMNS = ("point", "name", "label", "id")
_AXES = "xyz"


@dataclass(frozen=True)
class _Table:
    """A CSV file: ``lines`` holds the number of each row's last line."""

    path: Path
    header: list[str]
    lines: list[int]
    rows: list[list[str]]

    def column(self, name: str) -> int | None:
        """Return the number of a column, found without regard to capitals."""
        return next((number for number, known in enumerate(self.header) if known.lower() == name.lower()), None)


def read_point_table(path: Path, space: str | None) -> PointList:
    """Return the points of a CSV file."""
    return _points_of(_load(path), "", (), space)


def read_pair_table(path: Path, first: str, second: str, space: str | None) -> tuple[PointList, PointList]:
    """Return two lists of points whose columns have two prefixes."""
    table, prefixes = _load(path), (f"{first}_", f"{second}_")
    return _points_of(table, prefixes[0], prefixes, space), _points_of(table, prefixes[1], prefixes, space)


def write_point_table(path: Path, points: PointList, space: str) -> None:
    """Write points as CSV: name, coordinates, further columns."""
    axes = [f"{axis}_{space.lower()}_mm" for axis in _AXES[: points.points.shape[1]]]
    columns = [NAME_COLUMNS[0], *axes, *points.extra]
    twice = sorted({column for column in columns if [known.lower() for known in columns].count(column.lower()) > 1})
    if twice:
        raise ValueError(f"further columns must have other names than {', '.join(columns[: 1 + len(axes)])}: {twice}.")
    further = [points.extra[name] for name in points.extra]
    positions = to_space(points.points, space).tolist()
    rows = [
        dict(zip(columns, (name, *position, *texts), strict=True))
        for name, position, *texts in zip(points.names, positions, *further, strict=True)
    ]
    write_table(path, columns, rows)


def _load(path: Path) -> _Table:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        content = [(reader.line_num, [field.strip() for field in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is no CSV ({error}); mend it.") from error
    if not content:
        raise InputError(f"{path}: the file is empty; give it a header and a row per point.")
    header = content[0][1]
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise InputError(f"{path}: its columns are not separated by commas; save it with commas.")
    lowered = [name.lower() for name in header]
    bad = next((name for name in header if not name or lowered.count(name.lower()) > 1), None)
    if bad is not None:
        raise InputError(f"{path}: each column must have a name of its own, got {header}; rename {bad!r}.")
    for line, row in content[1:]:
        if len(row) != len(header):
            raise InputError(f"{path}: line {line} has {len(row)} fields, the header {len(header)}; mend it.")
    return _Table(path, header, [line for line, _ in content[1:]], [row for _, row in content[1:]])


def _points_of(table: _Table, prefix: str, prefixes: Sequence[str], given: str | None) -> PointList:
    space, axes, taken = _coordinates(table, prefix, given)
    names = next((number for name in NAME_COLUMNS if (number := table.column(name)) is not None), None)
    if names is None:
        raise InputError(f"{table.path}: no column {NAME_COLUMNS[0]!r} with a name of each point; add it.")
    rows = [
        PointRow(f"line {line}", row[names], [row[axis] for axis in axes])
        for line, row in zip(table.lines, table.rows, strict=True)
    ]
    others = tuple(other for other in prefixes if other != prefix)
    further: dict[str, list[str]] = {}
    for number, title in enumerate(table.header):
        if number == names or number in taken or title.startswith(others):
            continue
        name = title.removeprefix(prefix)
        if name in further:
            raise InputError(f"{table.path}: columns {name!r} and {prefix + name!r} are the same; remove one.")
        further[name] = [row[number] for row in table.rows]
    return make_list(table.path, rows, space, further)


def _coordinates(table: _Table, prefix: str, given: str | None) -> tuple[str, list[int], set[int]]:
    """Return the space, the columns of the coordinates, and all columns that hold some, in whatever space."""
    found = {space: _axes_of(table, prefix, f"_{space.lower()}_mm") for space in SPACES}
    plain = _axes_of(table, prefix, "")
    named = [space for space, axes in found.items() if axes]
    taken = {axis for axes in (*found.values(), plain) for axis in axes}
    wanted = ", ".join(f"{prefix}{axis}_ras_mm" for axis in _AXES)
    if not named and not plain:
        raise InputError(
            f"{table.path}: no columns {wanted} (or with lps) in its header {', '.join(table.header)}; rename those "
            "that are meant."
        )
    if len(named) == 2 and given is not None:
        named = [check_space(given)]
    if len(named) == 2:
        raise InputError(f"{table.path}: holds its points in RAS and in LPS; state which of them to read.")
    space = choose_space(table.path, named[0] if named else None, given, f"name its columns {wanted} (or with lps)")
    return space, found[space] or plain, taken


def _axes_of(table: _Table, prefix: str, suffix: str) -> list[int]:
    """Return the columns of x and y, and of z where there is one; none without x and y."""
    columns = [table.column(f"{prefix}{axis}{suffix}") for axis in _AXES]
    if None in columns[:2]:
        return []
    return [column for column in columns if column is not None]
