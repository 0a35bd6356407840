# SPDX-License-Identifier: Apache-2.0
"""What all formats of point files share: from raw rows to checked points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError
from monai_ext.spaces import check_space, to_space


class PointRow(NamedTuple):
    """A point as its file has it: ``where`` says in which row, for messages; numbers may be text."""

    where: str
    name: str
    position: Sequence[object]


def read_text(path: Path) -> str:
    """Return a file's text, with its line ends as they are and without the mark that Excel puts first.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); check the path, and save it as UTF-8.") from error


def choose_space(path: Path, stated: str | None, given: str | None, remedy: str) -> str:
    """Return the space of a file from what it states and what the caller says.

    Raises:
        InputError: neither says it, or they disagree.
    """
    given = None if given is None else check_space(given)
    if stated is None and given is None:
        raise InputError(f"{path}: says nowhere whether its points are RAS or LPS; {remedy}, or state the space.")
    if stated is not None and given not in (None, stated):
        raise InputError(f"{path}: its points are {stated}, not {given}; leave the space to the file.")
    return stated or given or ""


def make_list(path: Path, rows: Sequence[PointRow], space: str, extra: Mapping[str, Sequence[str]]) -> PointList:
    """Check the rows of a file and return its points.

    Raises:
        InputError: no row, a name that is missing or repeats, or a coordinate that is no finite number.
    """
    if not rows:
        raise InputError(f"{path}: there is no point in it; add one, or name another file.")
    first: dict[str, str] = {}
    for row in rows:
        if not row.name:
            raise InputError(f"{path}: {row.where} has no name; give it one of its own.")
        if row.name in first:
            raise InputError(f"{path}: {first[row.name]} and {row.where} are both named {row.name!r}; rename one.")
        first[row.name] = row.where
    positions = [[_coordinate(value, row, path) for value in row.position] for row in rows]
    points = to_space(torch.tensor(positions, dtype=torch.float64), space)
    return PointList(tuple(first), points, {name: tuple(column) for name, column in extra.items()}, path)


def _coordinate(value: object, row: PointRow, path: Path) -> float:
    number = math.nan
    if isinstance(value, (str, float, int)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{path}: {row.where} ({row.name!r}) must have finite numbers for its position, got {value!r}; mend it."
        )
    return number
