# SPDX-License-Identifier: Apache-2.0
"""What counts as a scan on disk: file suffixes, stems, folders of DICOM files."""

from __future__ import annotations

import os
from pathlib import Path

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SCAN_SUFFIXES = VOLUME_SUFFIXES + RASTER_SUFFIXES + DICOM_SUFFIXES


def stem_of(path: str | os.PathLike[str]) -> str:
    """Return the file's name without its image suffix (both parts of ``.nii.gz``); a folder keeps its name.

    Example:
        >>> stem_of("scans/case.01.nii.gz")
        'case.01'
    """
    name = Path(path).name
    suffix = next((s for s in SCAN_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def is_raster(path: str | os.PathLike[str]) -> bool:
    """Say whether the file is a picture (PNG, JPEG, TIFF, BMP), which has no position in the patient."""
    return str(path).lower().endswith(RASTER_SUFFIXES)


def is_dicom_folder(path: str | os.PathLike[str]) -> bool:
    """Say whether the folder itself (not its sub-folders) holds DICOM files."""
    folder = Path(path)
    return folder.is_dir() and any(_is_dicom_file(file) for file in folder.iterdir())


def list_scans(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the scans of a folder by name: image files, and sub-folders that hold a DICOM series.

    Single ``.dcm`` files are not listed: a folder of them is one scan.
    """
    return sorted(entry for entry in Path(folder).iterdir() if not entry.name.startswith(".") and _is_scan(entry))


def _is_scan(entry: Path) -> bool:
    if entry.is_dir():
        return is_dicom_folder(entry)
    return entry.name.lower().endswith(VOLUME_SUFFIXES + RASTER_SUFFIXES)


def _is_dicom_file(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():  # scanners write no suffix, or the end of a UID
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"
