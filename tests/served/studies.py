# SPDX-License-Identifier: Apache-2.0
"""A server's studies: small scans in an anisotropic, oblique grid whose axes are neither RAS nor LPS."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from tests.followup.toy_bundle import grid, write_scan

SHAPE = (24, 20, 9)
SCANS = ("scan0", "scan1", "scan2", "scan3")
BEFORE, NOW = grid(turn=-8, shift=(4, 2, -30)), grid(turn=15, shift=(-20, 9, 11))


def write_studies(folder: Path) -> Path:
    """Write four scans to segment, and two of one thing to match."""
    folder.mkdir()
    for number, name in enumerate(SCANS):
        noise = np.random.default_rng(number).normal(100, 20, SHAPE)
        voxels = noise + 300 * np.asarray(label_of(number).dataobj)
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine_of(number)), folder / f"{name}.nii.gz")
    write_scan(folder / "before.nii.gz", BEFORE, codes="LPS")
    write_scan(folder / "now.nii.gz", NOW, codes="SAR")
    return folder


def affine_of(number: int) -> np.ndarray:
    """From a scan's voxels to RAS mm."""
    turn = np.array([[0, -1, 0], [0.8, 0, -0.6], [0.6, 0, 0.8]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([4.0, 5.0, 12.0]), [7.0, -20.0, 3.0 * number]
    return affine


def label_of(number: int) -> nib.Nifti1Image:
    """A box (1) and a ball (2), which lie elsewhere in each scan."""
    i, j, k = np.mgrid[tuple(slice(0, size) for size in SHAPE)]
    label = np.zeros(SHAPE, np.uint8)
    label[2 + number : 9 + number, 4:15, 2:7] = 1
    label[(i - 15 - number) ** 2 + (j - 10) ** 2 + (2 * (k - 4)) ** 2 < 16] = 2
    return nib.Nifti1Image(label, affine_of(number))
