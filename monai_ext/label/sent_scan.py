# SPDX-License-Identifier: Apache-2.0
"""Scans that clients send hold their voxels themselves, no more than fit, and name no other file of the server."""

from __future__ import annotations

import math
import re
from pathlib import Path

from monai_ext.errors import InputError
from monai_ext.scan_files import SCAN_SUFFIXES

HEADERS_ALONE = (".mhd", ".nhdr")
HEADER_BYTES = 1_000_000
LARGEST_SCAN = 1_000_000_000  # voxels; a file of a megabyte can say that it unpacks to more than any memory
META_DATA = re.compile(rb"^[^\S\n]*ElementDataFile\b([^\n]*)", re.IGNORECASE | re.MULTILINE)
NRRD_DATA = re.compile(rb"^\s*data\s*file\s*:", re.IGNORECASE | re.MULTILINE)
SENT_SUFFIXES = tuple(suffix for suffix in SCAN_SUFFIXES if suffix not in HEADERS_ALONE)


def check_sent_scan(name: str, path: str | Path) -> None:
    """Refuse a file that is no scan, is too large, or whose header says that its voxels lie in another file.

    MetaImage and NRRD have such headers, with any path in them: read like a scan, a file of the server would be
    segmented for whoever asks. A folder is taken for a DICOM series, which names no files.

    Args:
        name: what the file is to the client, for the message.
        path: of what was sent.

    Raises:
        InputError: it is such a file.
    """
    path = Path(path)
    if path.is_dir():
        return
    if not path.name.lower().endswith(SENT_SUFFIXES):
        raise InputError(f"{name}: must be a scan ({', '.join(SENT_SUFFIXES)}), got {path.suffix or 'no suffix'}.")
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    if path.name.lower().endswith(".mha") or _is_text(head):
        places = [match.strip(b" \t\r=:") for match in META_DATA.findall(head)]
        elsewhere = any(place.upper() != b"LOCAL" for place in places)
        if elsewhere or (path.name.lower().endswith(".mha") and not places):
            raise _refusal(name)
    if head.startswith(b"NRRD"):
        header, end, _ = head.replace(b"\r\n", b"\n").partition(b"\n\n")
        if not end or NRRD_DATA.search(header):
            raise _refusal(name)
    _check_size(name, path)


def _check_size(name: str, path: Path) -> None:
    """Read the header alone; pictures and DICOM have limits of their own."""
    try:
        shape = _shape(path)
    except Exception as error:  # of three libraries
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise InputError(f"{name}: cannot be read as a scan ({reason[0].replace(str(path), 'it')}).") from error
    if math.prod(shape) > LARGEST_SCAN:
        raise InputError(f"{name}: may have {LARGEST_SCAN} voxels, got {' x '.join(map(str, shape))}.")


def _shape(path: Path) -> tuple[int, ...]:
    if path.name.lower().endswith((".nii", ".nii.gz")):
        import nibabel as nib

        return tuple(nib.load(path).shape)  # type: ignore[attr-defined]
    if path.name.lower().endswith((".mha", ".nrrd")):
        import SimpleITK

        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return (*reader.GetSize(), reader.GetNumberOfComponents())
    return ()


def _is_text(head: bytes) -> bool:
    return b"\0" not in head[:1000]


def _refusal(name: str) -> InputError:
    return InputError(f"{name}: the header says that the voxels lie in another file; send one file with its voxels.")
