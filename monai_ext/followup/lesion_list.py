# SPDX-License-Identifier: Apache-2.0
"""The lesions of one scan: where they are and how large."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from monai_ext.data.point_file import read_points
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError

DIAMETER, RADIUS = "diameter_mm", "radius_mm"


@dataclass(frozen=True, eq=False)
class LesionList:
    """N lesions, in the order of their file.

    Attributes:
        points: names and centres, RAS mm.
        diameters: (N,) in mm, NaN where none is known.
    """

    points: PointList
    diameters: Tensor

    def __len__(self) -> int:
        return len(self.points)


def read_lesions(path: str | Path, space: str | None = None, may_be_empty: bool = False) -> LesionList:
    """Return the lesions of a point file; a CSV may have a column `DIAMETER` (or `RADIUS`), empty where not known.

    Args:
        path: the file, see `monai_ext.data.point_file.read_points`.
        space: ``RAS`` or ``LPS``, for a file that does not state it.
        may_be_empty: accept a file without any lesion.

    Raises:
        InputError: the file cannot be used, a point has no z, or a diameter is negative or no number.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "lesions.csv"
        >>> text = "point,x_ras_mm,y_ras_mm,z_ras_mm,radius_mm\\nliver,1,2,3,5\\n"
        >>> _ = file.write_text(text, encoding="utf-8")
        >>> read_lesions(file).diameters.tolist()
        [10.0]
    """
    path = Path(path)
    if may_be_empty and _is_empty(path):
        return LesionList(PointList((), torch.zeros(0, 3), path=path), torch.zeros(0, dtype=torch.float64))
    points = require_volume(read_points(path, space))
    columns = [(name, factor) for name, factor in ((DIAMETER, 1), (RADIUS, 2)) if name in points.extra]
    diameters = torch.full((len(points),), torch.nan, dtype=torch.float64)
    for name, factor in columns[:1]:
        diameters = points.numbers(name) * factor
        if bool((diameters < 0).any()):
            index = int((diameters < 0).nonzero()[0, 0])
            raise InputError(f"{path}: {name} of {points.names[index]!r} must not be negative; mend it.")
    return LesionList(points, diameters)


def require_volume(points: PointList) -> PointList:
    """Return the points.

    Raises:
        InputError: they have no z.
    """
    if points.points.shape[1] != 3:
        raise InputError(f"{points.path}: has x and y alone, points of a volume have z too; add it.")
    return points


def _is_empty(path: Path) -> bool:
    """Say whether a file is a list without points: a table's header alone, or a list of 3D Slicer without any."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return not any(markup["controlPoints"] for markup in json.loads(text)["markups"])
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError):
        return False  # `read_points` says what is wrong
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) == 1 if path.suffix.lower() == ".csv" else all(line.startswith("#") for line in lines)
