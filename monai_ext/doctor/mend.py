# SPDX-License-Identifier: Apache-2.0
"""Mend a scan in memory; each repair returns what it did in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .check_geometry import other_affine
from .check_labels import smallest_type, values_in
from .check_pairs import KEPT, Grid, check_grids, has_no_place
from .check_voxels import finite_range
from .geometry import corner_shift, is_usable, nearest_orthonormal
from .scan import Scan


class CannotMend(Exception):  # noqa: N818  (the case goes to the quarantine)
    """The repair that was hoped for is not possible.

    Example:
        >>> raise CannotMend("too little foreground")
        Traceback (most recent call last):
        ...
        monai_ext.doctor.mend.CannotMend: too little foreground
    """


def mend_scan(scan: Scan, codes: set[str], is_label: bool) -> list[str]:
    """Repair the scan in place and return what was done.

    Args:
        scan: voxels and geometry.
        codes: the repairable findings of its file.
        is_label: labels are filled and stored otherwise than images.
    """
    repairs: dict[str, Callable[[Scan, bool], str]] = {  # in this order
        "four_dimensional": _drop_axes,
        "bad_spacing": _whole_affine,
        "non_orthonormal": _perpendicular,
        "qform_sform_conflict": _one_position,
        "nan_voxels": _fill,
        "mask_0_255": _threshold,
        "wrong_dtype": _store_plainly,
    }
    return [repair(scan, is_label) for code, repair in repairs.items() if code in codes]


def mend_grid(label: Scan, image: Grid) -> str:
    """Bring a label to its image's grid; return what was done, or nothing if it is there already.

    Raises:
        CannotMend: if less than `KEPT` of the foreground, or a whole class, would be lost.
    """
    if not check_grids(image, Grid("", label.grid, label.affine), is_label=True):
        return ""
    if image.affine is None or label.affine is None:
        raise CannotMend("a picture has no position by which it could be resampled")
    if has_no_place(label.affine) and label.grid == image.shape:
        label.affine = image.affine
        return "took the image's position, having none of its own"
    before, after = label.array, _resampled(label, image)
    edge = np.abs([np.linalg.det(affine[:3, :3]) for affine in (label.affine, image.affine)])
    volume = (before > 0).sum() * edge[0]
    kept = (after > 0).sum() * edge[1] / volume if volume else 1.0
    lost = sorted(set(values_in(before)) - set(values_in(after)) - {0})
    if kept < KEPT or lost:
        raise CannotMend(
            f"on the image's grid {kept:.0%} of the foreground would be left, classes lost: {lost or 'none'}"
        )
    label.array, label.affine = after, image.affine
    return f"resampled to the image's grid with nearest neighbour ({kept:.1%} of the foreground's volume kept)"


def _resampled(label: Scan, image: Grid) -> np.ndarray:
    from scipy.ndimage import affine_transform

    if image.affine is None or label.affine is None:
        raise CannotMend("no position")
    array = label.array.reshape((*label.array.shape, 1, 1, 1)[:3])
    to_label = np.linalg.inv(label.affine) @ image.affine
    shape = (*image.shape, 1, 1, 1)[:3]
    # grid-constant: a place up to half a voxel outside still belongs to the border voxel
    moved = affine_transform(array, to_label[:3, :3], to_label[:3, 3], shape, order=0, mode="grid-constant")
    return moved.reshape(image.shape)


def _drop_axes(scan: Scan, is_label: bool) -> str:
    before = scan.array.shape
    scan.array = scan.array.reshape(before[:3])
    return f"shape {before} became {scan.array.shape}"


def _whole_affine(scan: Scan, is_label: bool) -> str:
    if scan.affine is None:
        raise CannotMend("no affine")
    spare = other_affine(scan)
    if is_usable(scan.affine):
        return "pixdim is written from the affine"  # as the writer does for every mended file
    if spare is None:
        raise CannotMend("there is no usable qform")
    scan.affine = spare
    return "took the qform as affine"


def _perpendicular(scan: Scan, is_label: bool) -> str:
    if scan.affine is None:
        raise CannotMend("no affine")
    mended = nearest_orthonormal(scan.affine, scan.grid)
    shift = corner_shift(scan.affine, mended, scan.grid)
    scan.affine = mended
    return f"nearest orthonormal direction; corners moved by {shift:.3g} mm"


def _one_position(scan: Scan, is_label: bool) -> str:
    return "qform and sform are both written from the affine"  # as the writer does for every mended file


def _fill(scan: Scan, is_label: bool) -> str:
    bad = ~np.isfinite(scan.array)
    low, high = (0.0, 0.0) if is_label else finite_range(scan.array)
    scan.array = np.nan_to_num(scan.array, nan=low, posinf=high, neginf=low)
    return f"{int(bad.sum())} voxels filled with {low:.6g}" + (f" or {high:.6g}" if high != low else "")


def _threshold(scan: Scan, is_label: bool) -> str:
    scan.array = (scan.array > 127).astype(np.uint8)
    return "1 where the value was above 127, else 0"


def _store_plainly(scan: Scan, is_label: bool) -> str:
    if scan.is_palette and not is_label:
        from PIL import Image

        with Image.open(scan.path) as image:
            scan.array, scan.channels, scan.is_palette = np.asarray(image.convert("RGB")), 3, False
        return "colours looked up, stored as RGB"
    done = ""
    if is_label and scan.channels > 1:
        scan.array, scan.channels = scan.array[..., 0], 1
        done = "one of the equal channels kept"
    if is_label and scan.array.dtype.kind == "f":
        scan.array = np.rint(scan.array)
        scan.array = scan.array.astype(smallest_type(values_in(scan.array)))
        done = (done and done + ", ") + f"stored as {scan.array.dtype}"
    return done
