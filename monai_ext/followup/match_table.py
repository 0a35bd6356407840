# SPDX-License-Identifier: Apache-2.0
"""Matched points as a table, or as a point list for 3D Slicer."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from monai_ext.data.point_file import POINT_SUFFIXES, write_points
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError
from monai_ext.matching import MatchedPoints
from monai_ext.spaces import to_space
from monai_ext.tables import write_table

MATCH_COLUMNS = ("score", "local_score", "global_score", "cycle_error_mm", "accepted", "fallback", "anchors", "reason")
_AXES = "xyz"


def write_matches(path: Path, points: PointList, matched: MatchedPoints, space: str = "RAS", note: str = "") -> None:
    """Write points and their matches, whole or not at all; the suffix tells the format.

    - ``.csv``: a row per point: ``point``, its place in both scans (``fixed_x_ras_mm``, ..., ``moving_x_ras_mm``, ...,
      or with ``lps``), then `MATCH_COLUMNS`.
    - ``.fcsv`` and ``.mrk.json``: the places in the moving scan. Scores and status are in the description, and points
      that were not accepted are not selected.

    Args:
        path: the file to write.
        points: in the fixed scan.
        matched: their matches, in RAS mm.
        space: in which the file has them, ``RAS`` or ``LPS``.
        note: added to the reason of every point, such as that the network is not trained.

    Raises:
        InputError: another suffix or space.
    """
    rows = match_rows(matched, note)
    if path.name.lower().endswith(".csv"):
        fixed, moving = (world_columns(prefix, space) for prefix in ("fixed", "moving"))
        places = zip(rounded(points.points, space), rounded(matched.points, space), strict=True)
        table = [
            {"point": name, **dict(zip((*fixed, *moving), (*here, *there), strict=True)), **row}
            for name, (here, there), row in zip(points.names, places, rows, strict=True)
        ]
        write_table(path, ("point", *fixed, *moving, *MATCH_COLUMNS), table)
        return
    selected = tuple(str(int(bool(accepted))) for accepted in matched.accepted)
    extra = {"description": tuple(_description(row) for row in rows), "selected": selected}
    write_points(path, PointList(points.names, matched.points, extra), space)


def check_match_path(path: Path) -> Path:
    """Return the path of a result.

    Raises:
        InputError: its suffix is of no format.
    """
    if not path.name.lower().endswith(POINT_SUFFIXES):
        raise InputError(f"{path}: matched points are written to {', '.join(POINT_SUFFIXES)}; name such a file.")
    return path


def match_rows(matched: MatchedPoints, note: str = "") -> list[dict[str, object]]:
    """Return the columns `MATCH_COLUMNS` of each point."""
    columns = (matched.score, matched.local_score, matched.global_score, matched.cycle_error)
    numbers = [
        [round(float(value), digits) for value in column] for column, digits in zip(columns, (4, 4, 4, 3), strict=True)
    ]
    flags = [[int(value) for value in column] for column in (matched.accepted, matched.fallback, matched.anchors)]
    reasons = ["; ".join(part for part in (reason, note) if part) for reason in matched.reasons]
    return [dict(zip(MATCH_COLUMNS, row, strict=True)) for row in zip(*numbers, *flags, reasons, strict=True)]


def world_columns(prefix: str, space: str) -> tuple[str, ...]:
    """Return the names of the three coordinates of a place.

    Example:
        >>> world_columns("moving", "LPS")
        ('moving_x_lps_mm', 'moving_y_lps_mm', 'moving_z_lps_mm')
    """
    return tuple(f"{prefix}_{axis}_{space.lower()}_mm" for axis in _AXES)


def rounded(points: Tensor, space: str) -> list[list[float]]:
    """Return points (N, 3) in RAS mm as rows of numbers in a space, to a ten-thousandth of a mm."""
    return [[round(value, 4) + 0.0 for value in row] for row in to_space(points, space).tolist()]  # no -0.0


def _description(row: dict[str, object]) -> str:
    status = "accepted" if row["accepted"] else "not accepted"
    text = f"{status}, score {row['score']:.2f}, leads back {row['cycle_error_mm']:.1f} mm away"
    return f"{text}; {row['reason']}" if row["reason"] else text
