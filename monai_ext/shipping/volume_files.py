# SPDX-License-Identifier: Apache-2.0
"""Volumes as they are in their files, and volumes written as NIfTI."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.transforms.load_scan import LoadScand

NIFTI_SUFFIXES = (".nii.gz", ".nii")


def read_volume(path: Path) -> MetaTensor:
    """Return a volume (C, X, Y, Z) in its own grid and units, float32.

    Raises:
        InputError: it cannot be read, or is a picture.
    """
    volume: MetaTensor = LoadScand(keys=["image"])({"image": str(path)})["image"]
    if volume.ndim != 4:
        raise InputError(f"{path}: is a picture, which has no place in the world; registration needs volumes.")
    return volume


def read_label(path: Path) -> MetaTensor:
    """Return a label map (1, X, Y, Z) in its own grid, int32.

    Raises:
        InputError: it cannot be read, has channels, or values that are no labels.
    """
    label = read_volume(path)
    if len(label) != 1:
        raise InputError(f"{path}: has {len(label)} channels, a label map has one; keep one whole number a voxel.")
    whole = label.to(torch.int32)
    if not torch.equal(whole.to(label.dtype), label) or int(whole.min()) < 0:
        raise InputError(f"{path}: has values that are no whole numbers from 0 on; a label map has nothing else.")
    return whole  # type: ignore[return-value]


def write_volume(path: Path, volume: MetaTensor) -> None:
    """Write a volume (C, X, Y, Z) as NIfTI, whole or not at all; whole numbers in the smallest type that holds them.

    Raises:
        InputError: another suffix.
    """
    check_nifti(path)
    values = volume.detach().as_subclass(Tensor).cpu().numpy()
    if np.issubdtype(values.dtype, np.integer):
        values = values.astype(np.uint8 if values.max(initial=0) < 256 else np.int32)
    voxels = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    image = nib.Nifti1Image(voxels, volume.affine.cpu().numpy())
    image.header.set_xyzt_units("mm")
    with atomic_write(path) as temporary:
        nib.save(image, temporary)


def check_nifti(path: Path) -> Path:
    """Return the path of a volume to write.

    Raises:
        InputError: its suffix is not NIfTI's.
    """
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise InputError(f"{path}: volumes are written as {' or '.join(NIFTI_SUFFIXES)}; name such a file.")
    return path
