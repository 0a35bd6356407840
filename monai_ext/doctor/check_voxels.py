# SPDX-License-Identifier: Apache-2.0
"""Checks of the voxels of an image or label: dimensions, number type, finite values."""

from __future__ import annotations

import numpy as np

from .finding import Finding, finding
from .scan import Scan


def check_voxels(scan: Scan, file: str, is_label: bool) -> list[Finding]:
    """Return what is wrong with the voxels; with a structured or complex type nothing further can be said."""
    unusable = _check_type(scan, file, is_label)
    if unusable:
        return unusable
    found = _check_dimensions(scan, file, is_label) + _check_finite(scan, file, is_label)
    if scan.is_palette and not is_label:
        repair = "look the colours up and write RGB"
        found.append(finding("wrong_dtype", file, "a palette image: its values are numbers of colours", repair=repair))
    if not is_label and not found and _is_constant(scan.array):
        found.append(finding("constant_image", file, f"every voxel is {scan.array.flat[0]}"))
    return found


def _check_type(scan: Scan, file: str, is_label: bool) -> list[Finding]:
    dtype = scan.array.dtype
    if dtype.names:
        names = ", ".join(dtype.names)
        remedy = "write one number for each voxel, or one file for each channel"
        return [finding("wrong_dtype", file, f"every voxel is a structure ({names})", remedy=remedy)]
    if dtype.kind == "c":
        remedy = "write the magnitude (numpy.abs) or the real part"
        return [finding("wrong_dtype", file, f"voxels are complex numbers ({dtype})", remedy=remedy)]
    if is_label and scan.channels > 1:
        return [_colour_label(scan, file)]
    if scan.kind == "itk" and scan.channels > 1:
        remedy = 'write one file for each channel and list them: "image": ["a.nrrd", "b.nrrd"]'
        return [finding("wrong_dtype", file, f"every voxel is a vector of {scan.channels}", remedy=remedy)]
    return []


def _colour_label(scan: Scan, file: str) -> Finding:
    colours = scan.array[..., :3] if scan.channels > 2 else scan.array[..., :1]
    what = f"the label has {scan.channels} channels"
    if np.array_equal(colours.min(axis=-1), colours.max(axis=-1)):
        severity = "warning" if scan.kind == "picture" else ""  # grey pictures are often saved so
        return finding("wrong_dtype", file, f"{what}, all equal", repair="keep one channel", severity=severity)
    remedy = "translate each colour to its class number and store one channel"
    return finding("wrong_dtype", file, f"{what} that differ: classes are painted in colours", remedy=remedy)


def _check_dimensions(scan: Scan, file: str, is_label: bool) -> list[Finding]:
    if not scan.series:
        return []
    shape = " x ".join(map(str, scan.array.shape))
    if set(scan.series) == {1}:
        return [finding("four_dimensional", file, f"shape {shape}: trailing axes of 1", repair="drop these axes")]
    remedy = "store class numbers (numpy.argmax over the last axis) in a 3-D file" if is_label else ""
    return [finding("four_dimensional", file, f"shape {shape} is a series, not a volume", remedy=remedy)]


def _check_finite(scan: Scan, file: str, is_label: bool) -> list[Finding]:
    if scan.array.dtype.kind != "f":
        return []
    bad = scan.array.size - int(np.isfinite(scan.array).sum())
    if not bad:
        return []
    what = f"{bad} of {scan.array.size} voxels ({100 * bad / scan.array.size:.2g} %) are NaN or infinite"
    if bad == scan.array.size:
        return [finding("nan_voxels", file, what, remedy="export the file again: nothing is left of it")]
    low, high = finite_range(scan.array)
    repair = "fill with 0 (background)" if is_label else f"fill NaN and -inf with {low:.6g}, +inf with {high:.6g}"
    return [finding("nan_voxels", file, what, repair=repair)]


def finite_range(array: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest finite value."""
    finite = np.isfinite(array)
    return float(array.min(where=finite, initial=np.inf)), float(array.max(where=finite, initial=-np.inf))


def _is_constant(array: np.ndarray) -> bool:
    return bool(array.min() == array.max())
