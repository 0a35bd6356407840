# SPDX-License-Identifier: Apache-2.0
"""Three slices of a scan through one place, cut out around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from monai_ext.report.paint import photo_address, to_bytes
from monai_ext.report.scans import PLANES, VolumeScan

if TYPE_CHECKING:
    import numpy as np

View = dict[str, object]


def point_views(
    scan: VolumeScan, world: Sequence[float], window: tuple[float, float], field_mm: float, side: int
) -> dict[str, View]:
    """Return what ``linked.js`` reads of a place in a scan: a picture for each plane, with the place in its middle.

    Slices run along the scan's own axes, so in an oblique scan they are not exactly axial, coronal and sagittal.

    Args:
        scan: the volume.
        world: the place, (x, y, z) in RAS mm. Outside of the scan the nearest slice is shown, and the caption says so.
        window: intensities shown as black and white.
        field_mm: width and height of what is cut out; what lies beyond the scan is black.
        side: pixels of the square pictures.

    Returns:
        For each plane ``src`` (a data address), ``caption`` and ``edges`` (letters for left, right, top and bottom).
    """
    views: dict[str, View] = {}
    for plane in PLANES:
        slice_, column, row = scan.locate(world, plane)
        last = scan.count(plane) - 1
        index = min(max(round(slice_), 0), last)
        frame = scan.frame(plane, index)
        spacing = [size / pixels for size, pixels in zip(scan.size_mm(plane), frame.shape[1::-1], strict=True)]
        pixels = _square(frame, (column, row), (field_mm / spacing[0], field_mm / spacing[1]), window, side)
        outside = "" if -0.5 <= slice_ <= last + 0.5 else ", the place lies outside of the scan"
        views[plane] = {
            "src": photo_address(pixels),
            "caption": scan.caption(plane, index) + outside,
            "edges": list(scan.edges(plane)),
        }
    return views


def _square(
    frame: np.ndarray, centre: tuple[float, float], extent: tuple[float, float], window: tuple[float, float], side: int
) -> np.ndarray:
    """Return a square picture around a centre (column, row), ``extent`` pixels of the slice wide and high."""
    import numpy as np
    from PIL import Image

    # a pixel's middle is half a pixel from its edge
    low = [at + 0.5 - size / 2 for at, size in zip(centre, extent, strict=True)]
    high = [at + 0.5 + size / 2 for at, size in zip(centre, extent, strict=True)]
    columns, rows = (range(math.floor(first), math.ceil(last)) for first, last in zip(low, high, strict=True))
    box = (low[0] - columns.start, low[1] - rows.start, high[0] - columns.start, high[1] - rows.start)
    picture = Image.fromarray(to_bytes(_cut(frame, rows, columns), window))
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))


def _cut(frame: np.ndarray, rows: range, columns: range) -> np.ndarray:
    """Cut out of a slice; what lies beyond it becomes not a number, which is painted black."""
    import numpy as np

    cut = np.full((len(rows), len(columns)), np.nan, dtype=np.float32)
    top, bottom = max(rows.start, 0), min(rows.stop, frame.shape[0])
    left, right = max(columns.start, 0), min(columns.stop, frame.shape[1])
    if top < bottom and left < right:
        inside = slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)
        cut[inside] = frame[top:bottom, left:right]
    return cut
