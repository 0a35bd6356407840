# SPDX-License-Identifier: Apache-2.0
"""Write a mended scan in the format of its file, and copy files that need no mending."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

from monai_ext.files import atomic_write

from .mend import CannotMend
from .scan import Scan


def write_scan(scan: Scan, target: Path) -> None:
    """Write the scan to ``target``, whose ending is that of the scan's own file (or .png for a picture).

    Raises:
        CannotMend: for a DICOM series, which is left to the archive that it came from.
    """
    if scan.kind == "nifti":
        _write_nifti(scan, target)
    elif scan.kind == "itk":
        _write_itk(scan, target)
    elif scan.kind == "picture":
        from PIL import Image

        with atomic_write(target) as temporary:
            Image.fromarray(scan.array).save(temporary)
    else:
        raise CannotMend("DICOM files are not rewritten; convert the series to NIfTI first")


def copy_scan(path: Path, target: Path) -> None:
    """Copy a file with its voxel file (.mhd, .nhdr) or a folder of DICOM files, bit for bit."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target)
        return
    shutil.copy2(path, target)
    voxels = detached_voxels(path)
    if voxels is not None:
        shutil.copy2(voxels, target.parent / voxels.name)


def detached_voxels(path: Path) -> Path | None:
    """Return the file beside a .mhd or .nhdr header that holds its voxels."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return None
    text = path.read_text(encoding="latin-1")
    match = re.search(r"^(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", text, re.MULTILINE | re.IGNORECASE)
    name = match.group(1) if match else ""
    if not name or Path(name).name != name or not (path.parent / name).is_file():
        return None
    return path.parent / name


def _write_nifti(scan: Scan, target: Path) -> None:
    import nibabel as nib

    header = scan.header.copy()
    array = _storable(scan)
    header.set_data_dtype(array.dtype)
    maker = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = maker(array, scan.affine, header)
    code = int(header["sform_code"]) or int(header["qform_code"]) or 2  # 2: aligned, as nibabel writes it
    image.set_sform(scan.affine, code)
    image.set_qform(scan.affine, code)
    with atomic_write(target) as temporary:
        nib.save(image, temporary)


def _storable(scan: Scan) -> np.ndarray:
    """Give scaled integers, which nibabel reads as float64, the float32 that holds what they can say."""
    stored = scan.header.get_data_dtype()
    if scan.array.dtype == np.float64 and stored.kind in "iu" and stored.itemsize <= 2:
        return scan.array.astype(np.float32)
    return scan.array


def _write_itk(scan: Scan, target: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    dims = scan.array.ndim - (scan.channels > 1)
    array = scan.array.transpose(*reversed(range(dims)), *range(dims, scan.array.ndim))
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=scan.channels > 1)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(scan.affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing[:dims].tolist())
    image.SetDirection((lps[:3, :3] / spacing)[:dims, :dims].ravel().tolist())
    image.SetOrigin(lps[:dims, 3].tolist())
    target.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(target), useCompression=True)
