# SPDX-License-Identifier: Apache-2.0
"""Which reader a scan needs, by its name; what counts as a scan is `monai_ext.scan_files`."""

from __future__ import annotations

from pathlib import Path

from monai_ext.scan_files import DICOM_SUFFIXES, VOLUME_SUFFIXES, is_dicom_folder, is_raster, list_scans


def format_of(path: Path) -> str:
    """Return "nifti", "itk", "picture" or "dicom" by the name, "dicom" for a folder of a series, else nothing.

    Example:
        >>> format_of(Path("a.nii.gz")), format_of(Path("a.mha")), format_of(Path("notes.txt"))
        ('nifti', 'itk', '')
    """
    name = path.name.lower()
    if path.is_dir():
        return "dicom" if is_dicom_folder(path) else ""
    if name.endswith(VOLUME_SUFFIXES):
        return "nifti" if name.endswith((".nii", ".nii.gz")) else "itk"
    if is_raster(path):
        return "picture"
    return "dicom" if name.endswith(DICOM_SUFFIXES) else ""


def scans_below(folder: Path) -> list[Path]:
    """List the scans of a folder and of the folders below it, hidden ones left out; a DICOM series is one scan."""
    if is_dicom_folder(folder):
        return [folder]
    found = list_scans(folder)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and path not in found:
            found += scans_below(path)
    return found


def is_hidden(path: Path) -> bool:
    """Tell whether the name begins with a dot, as the `._a.nii.gz` shadows that macOS leaves in archives do."""
    return path.name.startswith(".")
