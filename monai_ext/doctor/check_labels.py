# SPDX-License-Identifier: Apache-2.0
"""Checks of label values: whole numbers, inside the classes, some foreground."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .finding import Finding, finding
from .scan import Scan

WHOLE_TOLERANCE = 1e-3  # a float label of 0.9999 means 1
NEARLY, NEARLY_JPEG = 15, 64  # how far values of a black and white mask are from 0 and 255


def check_label(
    scan: Scan, file: str, classes: frozenset[int] | None, allow_empty: bool
) -> tuple[list[Finding], tuple[int, ...]]:
    """Return what is wrong with the values, and the values that occur (empty if they are not whole numbers).

    Args:
        scan: a label whose type `check_voxels` found usable.
        file: its name in the findings.
        classes: values that may occur; None if nobody said.
        allow_empty: a label without foreground is intended.
    """
    if scan.array.dtype.kind == "f":
        off = sum(int((np.abs(plane - np.rint(plane)) > WHOLE_TOLERANCE).sum()) for plane in _planes(scan.array))
        if off:
            remedy = "a label was resampled with interpolation: make it again with nearest neighbour, or threshold it"
            what = f"{off} of {scan.array.size} values are not whole numbers"
            return [finding("label_out_of_range", file, what, remedy=remedy)], ()
    values = values_in(scan.array)
    found = _check_range(scan, file, values, classes)
    if scan.array.dtype.kind == "f" and (not values or values[0] >= 0):
        what = f"the label holds whole numbers stored as {scan.array.dtype}"
        repair = f"store {smallest_type(values)}"
        found.append(finding("wrong_dtype", file, what, repair=repair))
    if not allow_empty and set(values) <= {0}:
        volume = len(scan.grid) > 2
        found.append(finding("empty_label", file, "the label has no foreground", severity="" if volume else "warning"))
    return found, values


def values_in(array: np.ndarray) -> tuple[int, ...]:
    """Return the values of a label in order, numbers that are not finite as 0."""
    values: set[int] = set()
    for plane in _planes(array):
        values.update(int(value) for value in np.unique(np.rint(plane) if plane.dtype.kind == "f" else plane))
    return tuple(sorted(values))


def _planes(array: np.ndarray) -> Iterator[np.ndarray]:
    """Give one plane after the other, what is not finite as 0, so that little memory is needed.

    Volumes lie in memory with x fastest, so that planes of the last axis are in one piece.
    """
    for plane in array.T:
        if plane.dtype.kind == "f":
            yield np.where(np.isfinite(plane), plane, 0)
        else:
            yield plane


def smallest_type(values: tuple[int, ...]) -> np.dtype:
    """Return the smallest unsigned type that holds the values."""
    return np.min_scalar_type(max(values, default=0))


def is_binary_255(values: tuple[int, ...], classes: frozenset[int] | None, noise: int = NEARLY) -> bool:
    """Tell whether the values are those of a mask of black and white, up to ``noise`` from 0 and 255."""
    if classes is not None and not classes <= {0, 1}:
        return False
    near = all(value <= noise or value >= 255 - noise for value in values)
    return near and bool(values) and values[0] >= 0 and 255 - noise <= values[-1] <= 255


def _check_range(scan: Scan, file: str, values: tuple[int, ...], classes: frozenset[int] | None) -> list[Finding]:
    is_jpeg = scan.path.suffix.lower() in (".jpg", ".jpeg")
    if is_binary_255(values, classes, NEARLY_JPEG if is_jpeg else NEARLY):
        what = "a black and white mask: values " + show(values)
        severity = "warning" if scan.kind == "picture" else ""  # pictures are read as 0/1 where there is one class
        repair = "write 1 where the value is above 127, else 0"
        return [finding("mask_0_255", file, what, repair=repair, severity=severity)]
    wrong = tuple(value for value in values if value < 0 or (classes is not None and value not in classes))
    if not wrong:
        return [_inexact(file, values)] if is_jpeg and len(values) > 2 else []
    allowed = "classes are not negative" if classes is None else f"the classes are {show(tuple(sorted(classes)))}"
    count = sum(int(np.isin(np.rint(plane), wrong).sum()) for plane in _planes(scan.array))
    what = f"value{'s' if len(wrong) > 1 else ''} {show(wrong)} in {count} voxels; {allowed}"
    return [finding("label_out_of_range", file, what)]


def _inexact(file: str, values: tuple[int, ...]) -> Finding:
    what = f"a label stored as JPEG, which changes values; there are {len(values)}: {show(values)}"
    return finding("wrong_dtype", file, what, remedy="make the label again and store it as PNG", severity="warning")


def show(values: tuple[int, ...]) -> str:
    """Return the values as a short list, runs of neighbours joined.

    Example:
        >>> show((0, 1, 2, 3, 7))
        '0 to 3, 7'
    """
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts[:8]) + (", ..." if len(parts) > 8 else "")
