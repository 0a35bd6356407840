# SPDX-License-Identifier: Apache-2.0
"""Matched points drawn into both scans side by side, coloured by how far they are from the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ext.report.paint import to_bytes

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

_FIELD_MM = (188.0, 220.0)  # width and height of what a panel shows
_SCALE = 1.5  # pixels a mm
_GAP, _BAR, _DOT = 6, 18, 3
_INK, _PAPER, _EDGE = (230, 230, 230), (20, 20, 20), (0, 0, 0)
_RAMP = ((70, 165, 255), (255, 240, 70), (255, 90, 20))  # apart for any colour vision, bright on grey


@dataclass(frozen=True)
class DrawnMatches:
    """Points of two scans, (N, 3) in RAS mm each.

    Args:
        points: in the fixed scan.
        truth: where they are in the moving scan.
        found: where matching found them.
    """

    points: np.ndarray
    truth: np.ndarray
    found: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """(N,) distance in mm from truth to found."""
        import numpy as np

        return np.sqrt(((self.found - self.truth) ** 2).sum(axis=1))


@dataclass(frozen=True)
class DrawnScan:
    """A volume to draw into.

    Args:
        voxels: (X, Y, Z), axes in any order and direction.
        affine: (4, 4), from voxels to RAS mm.
    """

    voxels: np.ndarray
    affine: np.ndarray

    @classmethod
    def read(cls, path: Path) -> DrawnScan:
        """Read a NIfTI volume."""
        import nibabel as nib
        import numpy as np

        image = nib.load(path)
        return cls(np.asarray(image.dataobj, dtype=np.float32), image.affine)  # type: ignore[attr-defined]


def match_picture(
    fixed: Path | DrawnScan,
    moving: Path | DrawnScan,
    matches: DrawnMatches,
    slices: int = 3,
    slab_mm: float = 12.0,
    limit_mm: float = 10.0,
) -> Image.Image:
    """Draw axial slices of the fixed scan above, and below the places of the moving scan that show the same.

    A slice of the fixed scan is no slice of a head that has turned. So below each one the moving scan is cut along the
    plane that fits best to the true places of the points shown. In it a dot is where a point was found, and a line
    leads to where it should be. The patient's right is on the left.

    Args:
        fixed: NIfTI volume that the points were given in, or its voxels.
        moving: the volume that they were found in, alike.
        matches: the points.
        slices: how many slices, at heights that divide the points evenly.
        slab_mm: points are drawn into a slice that are nearer to it than half of this.
        limit_mm: errors of this size and more have the last colour.

    Raises:
        ValueError: no points, or arrays of different shapes.

    Example:
        >>> match_picture(fixed, moving, matches).save("matches.png")  # doctest: +SKIP
    """
    import numpy as np
    from PIL import Image, ImageDraw

    _check(matches)
    width, height = _panel_size()
    sheet = Image.new("RGB", (slices * (width + _GAP) + _GAP, 2 * (height + _BAR) + _BAR + 2 * _GAP), _PAPER)
    read = [scan if isinstance(scan, DrawnScan) else DrawnScan.read(scan) for scan in (fixed, moving)]
    scans = _Volume(read[0]), _Volume(read[1])
    levels = np.quantile(matches.points[:, 2], (np.arange(slices) + 0.5) / slices).tolist()
    for column, level in enumerate(levels):
        shown = np.abs(matches.points[:, 2] - level) <= slab_mm / 2
        _draw_column(sheet, _GAP + column * (width + _GAP), scans, matches, level, shown, limit_mm)
    _legend(ImageDraw.Draw(sheet), sheet.height - _BAR, limit_mm)
    return sheet


class _Volume:
    """A volume that can be cut along nearly axial planes."""

    def __init__(self, scan: DrawnScan) -> None:
        import numpy as np

        self.voxels = scan.voxels
        self.to_voxels = np.linalg.inv(scan.affine)
        low, high = np.percentile(self.voxels[:: 1 + max(self.voxels.shape) // 128], (0.5, 99.5))
        self.window = float(low), float(max(high, low + 1e-6))

    def cut(self, plane: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Return a panel (rows, columns) of the plane z = plane[0] x + plane[1] y + plane[2], in mm."""
        import numpy as np
        from scipy.ndimage import map_coordinates

        width, height = _panel_size()
        x = centre[0] + ((width - 1) / 2 - np.arange(width)) / _SCALE
        y = centre[1] + ((height - 1) / 2 - np.arange(height)) / _SCALE
        x, y = np.meshgrid(x, y)
        world = np.stack([x, y, plane[0] * x + plane[1] * y + plane[2]]).reshape(3, -1)
        position = self.to_voxels[:3, :3] @ world + self.to_voxels[:3, 3:]
        values = map_coordinates(self.voxels, position, order=1, mode="constant", cval=self.window[0])
        return to_bytes(values.reshape(height, width), self.window)


def _check(matches: DrawnMatches) -> None:
    shapes = [array.shape for array in (matches.points, matches.truth, matches.found)]
    if len(set(shapes)) != 1 or shapes[0][1:] != (3,) or not shapes[0][0]:
        raise ValueError(f"points, truth and found must be (N, 3) with a point at least, got {shapes}.")


def _draw_column(
    sheet: Image.Image,
    left: int,
    scans: tuple[_Volume, _Volume],
    matches: DrawnMatches,
    level: float,
    shown: np.ndarray,
    limit_mm: float,
) -> None:
    """Draw one slice of the fixed scan and what shows the same in the moving one, with the points ``shown`` (N,)."""
    import numpy as np
    from PIL import Image, ImageDraw

    pen, tops = ImageDraw.Draw(sheet), (_BAR, _panel_size()[1] + 2 * _BAR)
    centres = [places[:, :2].mean(axis=0) for places in (matches.points, matches.truth)]
    planes = [np.array([0.0, 0.0, level]), _fit_plane(matches.truth[shown])]
    for scan, plane, centre, top in zip(scans, planes, centres, tops, strict=True):
        sheet.paste(Image.fromarray(scan.cut(plane, centre)), (left, top))
    errors = matches.errors[shown]
    mean = f", {errors.mean():.1f} mm off on average" if len(errors) else ""
    pen.text((left, 3), f"fixed, z = {level:.0f} mm, {len(errors)} points", _INK)
    pen.text((left, tops[1] - _BAR + 3), f"moving{mean}", _INK)
    places = (matches.points[shown], matches.found[shown], matches.truth[shown])
    for error, point, found, true in zip(errors.tolist(), *places, strict=True):
        colour = _colour(error / limit_mm)
        _dot(pen, _pixel(point, centres[0], (left, tops[0])), colour)
        ends = [_pixel(place, centres[1], (left, tops[1])) for place in (found, true)]
        pen.line(ends, _EDGE, 4)
        pen.line(ends, colour, 2)
        _dot(pen, ends[0], colour)


def _panel_size() -> tuple[int, int]:
    return round(_FIELD_MM[0] * _SCALE), round(_FIELD_MM[1] * _SCALE)


def _fit_plane(places: np.ndarray) -> np.ndarray:
    """Return (a, b, c) of the plane z = a x + b y + c nearest to places (N, 3); level where they tell no slope."""
    import numpy as np

    if len(places) < 3:
        return np.array([0.0, 0.0, places[:, 2].mean() if len(places) else 0.0])
    middle = places.mean(axis=0)
    slope = np.linalg.lstsq(places[:, :2] - middle[:2], places[:, 2] - middle[2], rcond=1e-3)[0]
    return np.array([*slope, middle[2] - slope @ middle[:2]])


def _pixel(place: np.ndarray, centre: np.ndarray, corner: tuple[int, int]) -> tuple[float, float]:
    width, height = _panel_size()
    x, y = ((centre - place[:2]) * _SCALE).tolist()
    return corner[0] + (width - 1) / 2 + x, corner[1] + (height - 1) / 2 + y


def _dot(pen: ImageDraw.ImageDraw, where: tuple[float, float], colour: Colour) -> None:
    x, y = where
    pen.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), colour, _EDGE)


def _colour(share: float) -> Colour:
    """Return the colour of an error as a share of the limit."""
    place = min(max(share, 0.0), 1.0) * (len(_RAMP) - 1)
    index = min(int(place), len(_RAMP) - 2)
    mixed = [
        round(first + (second - first) * (place - index))
        for first, second in zip(_RAMP[index], _RAMP[index + 1], strict=True)
    ]
    return mixed[0], mixed[1], mixed[2]


def _legend(pen: ImageDraw.ImageDraw, top: int, limit_mm: float) -> None:
    pen.text((_GAP, top + 2), "0 mm", _INK)
    left, steps = _GAP + 36, 160
    for step in range(steps):
        pen.line([(left + step, top + 3), (left + step, top + 13)], _colour(step / (steps - 1)))
    pen.text((left + steps + 6, top + 2), f"{limit_mm:g} mm or more, in 3-D; lines lead to the true place", _INK)
