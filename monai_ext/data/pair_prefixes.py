# SPDX-License-Identifier: Apache-2.0
"""Which of two scans the columns of a table of points belong to."""

from __future__ import annotations

import csv
from pathlib import Path

from monai_ext.data.point_file import read_point_pairs, read_points
from monai_ext.data.point_list import PointList

PREFIXES = (("fixed", "moving"), ("baseline", "followup"))


def pair_prefixes(path: str | Path) -> tuple[str, str] | None:
    """Return the prefixes of both scans' columns, None for a table or list of one scan's points.

    A file that cannot be read has none: who reads it says why.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "points.csv"
        >>> _ = path.write_text("point,baseline_x_ras_mm,baseline_y_ras_mm,followup_x_ras_mm,followup_y_ras_mm")
        >>> pair_prefixes(path)
        ('baseline', 'followup')
    """
    path = Path(path)
    if path.suffix.lower() != ".csv" or not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        names = [name.strip().lower() for name in next(csv.reader(file), [])]
    return next((pair for pair in PREFIXES if any(name.startswith(f"{pair[0]}_x") for name in names)), None)


def read_fixed_points(path: str | Path, space: str | None = None) -> PointList:
    """Return the points of the fixed scan: those of `read_points`, or their half of a table of both scans.

    So what `match` wrote, or a table with known places, can be given to be matched again.

    Args:
        path: the file.
        space: ``RAS`` or ``LPS``, for a file that does not state it.

    Raises:
        InputError: as of `read_points`.
    """
    prefixes = pair_prefixes(path)
    return read_points(path, space) if prefixes is None else read_point_pairs(path, *prefixes, space=space)[0]
