# SPDX-License-Identifier: Apache-2.0
"""Checks of where a volume lies: spacing, direction, and the two positions in a NIfTI header."""

from __future__ import annotations

import numpy as np

from .finding import Finding, finding
from .geometry import (
    ORTHONORMAL_TOLERANCE,
    corner_shift,
    is_usable,
    nearest_orthonormal,
    same_place,
    skew_of,
    spacing_of,
)
from .scan import Scan

SMALLEST_SPACING, LARGEST_SPACING = 1e-3, 100.0  # millimetres
TEMPLATE_CODES = (3, 4)  # NIfTI: Talairach, MNI152


def check_geometry(scan: Scan, file: str) -> list[Finding]:
    """Return what is wrong with the geometry; pictures have none."""
    if scan.affine is None:
        return []
    if scan.kind == "dicom":
        return [finding(code, file, what) for code, what in scan.notes]
    broken = _check_spacing(scan, file)
    if broken or not is_usable(scan.affine):
        return broken
    return _check_direction(scan, file) + _check_header(scan, file)


def other_affine(scan: Scan) -> np.ndarray | None:
    """Return the qform of a NIfTI file if it is declared and usable."""
    if scan.header is None:
        return None
    try:
        qform = scan.header.get_qform(coded=True)[0]
    except Exception:  # a quaternion that is none: nibabel raises several types
        return None
    return None if qform is None or not is_usable(qform) else np.asarray(qform, float)


def _check_spacing(scan: Scan, file: str) -> list[Finding]:
    affine = np.asarray(scan.affine)
    if not is_usable(affine):
        spare = other_affine(scan)
        repair = "use the header's qform, which is whole" if spare is not None else ""
        return [finding("bad_spacing", file, "the affine cannot be inverted (zero or NaN)", repair=repair)]
    spacing = spacing_of(affine)[: len(scan.grid)]
    if spacing.min() < SMALLEST_SPACING or spacing.max() > LARGEST_SPACING:
        what = f"spacing {_millimetres(spacing)} is no spacing of a scan; are the units millimetres?"
        return [finding("bad_spacing", file, what)]
    return []


def _check_direction(scan: Scan, file: str) -> list[Finding]:
    affine = np.asarray(scan.affine)
    skew = skew_of(affine)
    if skew <= ORTHONORMAL_TOLERANCE:
        return []
    shift = corner_shift(affine, nearest_orthonormal(affine, scan.grid), scan.grid)
    angle = np.degrees(np.arcsin(min(skew, 1.0)))
    what = f"two axes are {angle:.3g} degrees from perpendicular; ITK and SimpleITK refuse the file"
    repair = f"take the nearest orthonormal direction; the corners move by {shift:.3g} mm, the centre stays"
    return [finding("non_orthonormal", file, what, repair=repair)]


def _check_header(scan: Scan, file: str) -> list[Finding]:
    if scan.header is None or int(scan.header["sform_code"]) == 0:
        return []
    if int(scan.header["qform_code"]) == 0:
        return _check_pixdim(scan, file)
    affine, qform = np.asarray(scan.affine), other_affine(scan)
    codes = (int(scan.header["qform_code"]), int(scan.header["sform_code"]))
    repair = "write the sform, which nibabel and MONAI use, into both"
    if qform is None:
        return [finding("qform_sform_conflict", file, "the qform is no valid rotation, the sform is", repair=repair)]
    if same_place(affine, qform, scan.grid):
        return []
    shift = corner_shift(affine, qform, scan.grid)
    what = f"qform (code {codes[0]}) and sform (code {codes[1]}) put a corner {shift:.3g} mm apart"
    if codes[0] != codes[1] and codes[1] in TEMPLATE_CODES:  # two spaces by intent: the scanner's and the template's
        return [finding("qform_sform_conflict", file, f"{what}; the sform is a template space", severity="warning")]
    return [finding("qform_sform_conflict", file, what, repair=repair)]


def _check_pixdim(scan: Scan, file: str) -> list[Finding]:
    """With no qform ITK takes the spacing from pixdim and MONAI from the sform; they must agree."""
    dims = min(len(scan.grid), 3)
    pixdim = np.asarray(scan.header["pixdim"][1 : 1 + dims], float)
    spacing = spacing_of(np.asarray(scan.affine))[:dims]
    if np.allclose(pixdim, spacing, rtol=1e-2):
        return []
    what = f"pixdim says {_millimetres(pixdim)}, the sform {_millimetres(spacing)}"
    return [finding("bad_spacing", file, what, repair="write the sform's spacing into pixdim")]


def _millimetres(spacing: np.ndarray) -> str:
    return " x ".join(f"{n:.4g}" for n in spacing) + " mm"
