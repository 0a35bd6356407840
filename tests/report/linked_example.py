# SPDX-License-Identifier: Apache-2.0
"""Two small scans in different oblique grids, with bright balls at known places, and the points in both."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_ext.report.linked_points import LinkedPoint, LinkedScans

PLACES = ((10, 12, 8), (22, 20, 12), (15, 26, 5))  # voxels of the scan before its axes are turned
BRIGHT = 1000


def oblique(angle: float, spacing: tuple[float, float, float], shift: float) -> NDArray[np.float64]:
    """From voxels to RAS mm: turned about two axes by radians, anisotropic, moved."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag(spacing), [shift, -20 - shift, 7]
    return affine


def write_scan(path: Path, affine: NDArray[np.float64], codes: str = "RAS") -> list[tuple[float, float, float]]:
    """Write a scan with its axes in another order, and return where its balls are, RAS mm."""
    voxels = np.random.default_rng(0).integers(0, 60, (32, 36, 18)).astype(np.int16)
    for place in PLACES:
        voxels[tuple(slice(at - 1, at + 2) for at in place)] = BRIGHT
    image = nib.Nifti1Image(voxels, affine)
    turned = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    nib.save(image.as_reoriented(turned), path)
    return [tuple((affine @ [*place, 1])[:3].tolist()) for place in PLACES]


def linked_scans(folder: Path, names: tuple[str, ...] = ("one", "two", "three"), title: str = "later") -> LinkedScans:
    """Write both scans and return them with a point at each ball; the last point has no place in the second."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / "fixed.nii.gz", folder / "moving.nii.gz")
    fixed = write_scan(paths[0], oblique(0.2, (1.0, 1.5, 2.5), 3.0), "LPS")
    moving = write_scan(paths[1], oblique(-0.15, (2.0, 1.0, 1.5), -6.0), "SAL")
    statuses = (("matched", "good"), ("uncertain", "open"), ("lost", "bad"))
    points = [
        LinkedPoint(name, *status, here, there if index < 2 else None, [("score", f"0.{index}12"), ("note", name)])
        for index, (name, status, here, there) in enumerate(zip(names, statuses, fixed, moving, strict=True))
    ]
    return LinkedScans(("baseline", title), paths, points)
