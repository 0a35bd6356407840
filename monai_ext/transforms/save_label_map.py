# SPDX-License-Identifier: Apache-2.0
"""Writing predictions in the grid of the scan they belong to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.scan_files import is_raster
from monai_ext.transforms._case_file import CaseFiled


class SaveLabelMapd(CaseFiled):
    """Write label maps (1, X, Y[, Z]) into the grid of their scan, whole or not at all.

    The scan must have been read by `LoadScand` and everything that moved voxels undone (MONAI's `Invertd`) before.
    Volumes become ``.nii.gz`` of the same shape, affine and axes; if the scan is NIfTI, with its header, so that
    qform, sform and units are those of the scan. Pictures become PNG with class indices as grey values. The path
    is kept in ``meta["saved_to"]``. MONAI Label, which writes results itself, drops this transform as it is a
    `SaveImaged`.

    Args:
        keys: of the label maps.
        output_dir: folder to write into; made if it is not there.
        output_postfix: added to the name with an underscore.
        case_key: of the file name; the name of the scan where an item has none.

    Raises:
        InputError: if the scan itself would be overwritten.
        ValueError: if the label map is not in the grid of its scan.

    Example:
        >>> SaveLabelMapd(keys=["pred"], output_dir="eval/predictions")(item)["pred"].meta["saved_to"]  # doctest: +SKIP
        'eval/predictions/patient7.nii.gz'
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            labels = result[key]
            source = _source_of(labels)
            array = _checked_array(labels, source)
            path = self.path_of(result, source, ".png" if is_raster(source) else ".nii.gz")
            _refuse_overwriting(path, source)
            with atomic_write(path) as temporary:
                _write(array, labels, source, temporary)
            labels.meta["saved_to"] = str(path)
        return result


def _source_of(labels: object) -> Path:
    if not isinstance(labels, MetaTensor) or "source_shape" not in labels.meta:
        raise ValueError("a label map with its scan's metadata is wanted: read the scan by LoadScand, undo by Invertd.")
    return Path(str(labels.meta["filename_or_obj"]))


def _checked_array(labels: MetaTensor, source: Path) -> NDArray[np.uint8]:
    shape = tuple(int(size) for size in labels.meta["source_shape"])
    if tuple(labels.shape) != (1, *shape):
        raise ValueError(f"{source}: a label map of shape {(1, *shape)} is wanted, got {tuple(labels.shape)}; Invertd?")
    affine = torch.as_tensor(labels.meta["source_affine"])
    if labels.ndim == 4 and not torch.allclose(labels.affine.cpu().double(), affine.double(), atol=1e-3):
        raise ValueError(f"{source}: the label map has not been brought back to the scan's orientation; Invertd?")
    array = labels.as_tensor()[0].cpu().numpy()
    if array.min() < 0 or array.max() > 255 or (array != np.round(array)).any():
        raise ValueError(f"{source}: label maps hold whole numbers from 0 to 255, got {array.min()} to {array.max()}.")
    return array.astype(np.uint8)


def _refuse_overwriting(path: Path, source: Path) -> None:
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"{path}: the result would replace the scan; choose another output_dir or output_postfix.")


def _write(array: NDArray[np.uint8], labels: MetaTensor, source: Path, path: Path) -> None:
    if is_raster(source):
        Image.fromarray(np.ascontiguousarray(array.T)).save(path)  # rows first in a picture
        return
    header: Any
    if source.name.lower().endswith((".nii", ".nii.gz")):
        scan: Any = nib.load(source)
        header, affine = scan.header.copy(), scan.affine
    else:
        header, affine = nib.Nifti1Header(), np.asarray(labels.meta["source_affine"], dtype=np.float64)
        header.set_xyzt_units("mm")
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # of the scan's intensities
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(array, affine, header)
    if source.suffix.lower() not in (".nii", ".gz"):
        image.set_qform(affine, code="scanner")
        image.set_sform(affine, code="scanner")
    nib.save(image, path)
