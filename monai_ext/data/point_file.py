# SPDX-License-Identifier: Apache-2.0
"""Reads and writes points in world millimetres: tables and 3D Slicer's point lists."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from monai_ext.data._point_table import read_pair_table, read_point_table, write_point_table
from monai_ext.data._slicer_fcsv import read_fcsv, write_fcsv
from monai_ext.data._slicer_markups import read_markups, write_markups
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError
from monai_ext.spaces import check_space

logger = logging.getLogger(__name__)


class _Format(NamedTuple):
    read: Callable[[Path, str | None], PointList]
    write: Callable[[Path, PointList, str], None]
    is_table: bool


_MARKUPS = _Format(read_markups, write_markups, is_table=False)
_FORMATS = {
    ".csv": _Format(read_point_table, write_point_table, is_table=True),
    ".fcsv": _Format(read_fcsv, write_fcsv, is_table=False),
    ".mrk.json": _MARKUPS,
    ".json": _MARKUPS,
}
POINT_SUFFIXES = (".csv", ".fcsv", ".mrk.json")


def read_points(path: str | Path, space: str | None = None) -> PointList:
    """Return the points of a file, in RAS mm whatever the file's own space is.

    - ``.csv``: a header and a row per point. The name is in the column ``point`` (or ``name``, ``label``, ``id``); the
      coordinates are in ``x_ras_mm, y_ras_mm, z_ras_mm`` or ``x_lps_mm, ...``, or in ``x, y, z`` where ``space`` is
      given. Pictures have no z. Other columns (``diameter_mm``, ...) are kept as text.
    - ``.fcsv`` and ``.mrk.json``: point lists of 3D Slicer, which state their space. Points that were not placed are
      left out, with a note in the log; descriptions are kept.

    Args:
        path: the file; its suffix tells the format.
        space: ``RAS`` or ``LPS``, for a file that does not state it.

    Raises:
        InputError: another suffix, a file that cannot be read or has no point, missing columns, a coordinate that is
            no finite number, two points of one name, or a space that is not stated, or another than ``space``.

    Example:
        >>> import tempfile
        >>> import torch
        >>> path = Path(tempfile.mkdtemp()) / "lesions.mrk.json"
        >>> write_points(path, PointList(("liver",), torch.tensor([[10.0, 20.0, 30.0]])), space="LPS")
        >>> read_points(path).points.tolist()
        [[10.0, 20.0, 30.0]]
    """
    path = Path(path)
    return _format_of(path).read(path, space)


def read_point_pairs(
    path: str | Path, first: str = "baseline", second: str = "followup", space: str | None = None
) -> tuple[PointList, PointList]:
    """Return the points of two scans from one CSV file, in RAS mm, with the same names in the same order.

    Columns are as in `read_points`, with a prefix: ``baseline_x_ras_mm``, ..., ``followup_x_ras_mm``, .... Further
    columns go to the list whose prefix they have, without it; those with neither go to both.

    Args:
        path: the file.
        first: prefix of one scan.
        second: prefix of the other.
        space: ``RAS`` or ``LPS``, for a file that does not state it.

    Raises:
        InputError: as `read_points` does.
    """
    path = Path(path)
    if not _format_of(path).is_table:
        raise InputError(f"{path}: pairs of points are read from .csv alone; give a file for each scan.")
    return read_pair_table(path, first, second, space)


def write_points(path: str | Path, points: PointList, space: str = "RAS") -> None:
    """Write points to a file, whole or not at all; its suffix tells the format, as in `read_points`.

    3D Slicer's formats hold names, positions and, of the further columns, ``description`` and ``selected`` (``0`` or
    ``1``); the log names those that they have no room for.

    Args:
        path: the file to write.
        points: in RAS mm.
        space: in which the file has them, ``RAS`` or ``LPS``.

    Raises:
        InputError: another suffix or space, or points of a picture for 3D Slicer.
    """
    path = Path(path)
    chosen, space = _format_of(path), check_space(space)
    if not chosen.is_table:
        if points.points.shape[1] != 3:
            raise InputError(f"{path}: 3D Slicer's point lists have three axes, got 2; write a .csv.")
        lost = [name for name in points.extra if name not in ("description", "selected")]
        if lost:
            logger.warning("%s: the format has no room for %s; a .csv keeps them", path, ", ".join(lost))
    chosen.write(path, points, space)


def _format_of(path: Path) -> _Format:
    name = path.name.lower()
    for suffix, known in _FORMATS.items():
        if name.endswith(suffix):
            return known
    raise InputError(f"{path}: points are in {', '.join(POINT_SUFFIXES)} files; save it as one of them.")
