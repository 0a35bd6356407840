# SPDX-License-Identifier: Apache-2.0
"""Read a scan of any supported format, and say plainly what is wrong with a file that cannot be read."""

from __future__ import annotations

import gzip
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .formats import format_of, is_hidden
from .scan import Scan, Unreadable

# deflate cannot pack better than this, so a header that promises more is broken (and must not be given memory)
MOST_PACKED = 1040


def read_scan(path: Path) -> Scan:
    """Read the file (or DICOM folder) ``path``.

    Raises:
        Unreadable: with the rule it breaks, for any file that cannot be read.
    """
    kind = format_of(path)
    if path.is_file() and path.stat().st_size == 0:
        raise Unreadable("zero_byte", "the file has 0 bytes")
    readers = {"nifti": _read_nifti, "itk": _read_itk, "picture": _read_picture, "dicom": _read_dicom}
    if kind not in readers:
        raise Unreadable("corrupt_header", f"the ending {path.suffix or '(none)'} is of no format that is supported")
    try:
        with quiet():
            return readers[kind](path)
    except Unreadable:
        raise
    except Exception as error:  # decoders raise anything on random bytes, from SyntaxError to MemoryError
        raise Unreadable("corrupt_header", f"cannot be read: {_one_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Python's warnings and what C libraries write to the terminal about a file that is being read."""
    import nibabel as nib

    null, saved = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    os.dup2(null, 2)
    try:
        with warnings.catch_warnings(), nib.imageglobals.LoggingOutputSuppressor():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 2)
        os.close(null)
        os.close(saved)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def _read_nifti(path: Path) -> Scan:
    import nibabel as nib

    packed = path.stat().st_size
    size = _unpacked_size(path) if path.name.lower().endswith(".gz") else packed
    try:
        image: Any = nib.load(path, mmap=False)
        if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is one too
            raise ValueError(f"the content is {type(image).__name__}, not NIfTI")
        header = image.header
        need = int(header["vox_offset"]) + _bytes_of(image.shape, header.get_data_dtype().itemsize)
    except Exception as error:
        code = "truncated" if size < 348 else "corrupt_header"
        raise Unreadable(code, f"the NIfTI header cannot be read: {_one_line(error)}") from error
    if need > size:
        raise Unreadable("truncated", f"the header promises {need} bytes, {size} are there")
    return Scan(path, "nifti", np.asanyarray(image.dataobj), affine=np.asarray(image.affine, float), header=header)


def _bytes_of(shape: tuple[int, ...], itemsize: int) -> int:
    if not shape or min(shape) < 1:
        raise ValueError(f"the header says shape {tuple(int(n) for n in shape)}")
    return int(np.prod([int(n) for n in shape], dtype=object)) * itemsize


def _unpacked_size(path: Path) -> int:
    """Unpack the whole file piece by piece, since a reader that stops early misses a broken end."""
    with open(path, "rb") as file:
        start = file.read(348)
    if not b"\x1f\x8b".startswith(start[:2]):
        plain = len(start) == 348 and start[344:347] in (b"n+1", b"ni1")
        hint = "gzip it, or rename it to end in .nii" if plain else ""
        raise Unreadable("corrupt_header", "is not gzip-compressed though its name ends in .gz", hint)
    with gzip.open(path) as file:
        return _drain(file, path)


def _drain(file: gzip.GzipFile, path: Path) -> int:
    """Return how many bytes are packed in the file."""
    size = 0
    try:
        while piece := file.read(1 << 20):
            size += len(piece)
    except EOFError as error:
        raise Unreadable("truncated", f"the gzip stream breaks off ({path.stat().st_size} bytes on disk)") from error
    except (zlib.error, gzip.BadGzipFile, OSError) as error:
        raise Unreadable("corrupt_header", f"the gzip stream is damaged: {_one_line(error)}") from error
    return size


def _read_itk(path: Path) -> Scan:
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.suffix.lower() == ".nrrd":
        _check_nrrd_end(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    need = _bytes_of(size, components)
    if path.suffix.lower() in (".mha", ".nrrd") and need > MOST_PACKED * path.stat().st_size:
        raise Unreadable("corrupt_header", f"the header promises {need} voxels in {path.stat().st_size} bytes")
    try:
        image = reader.Execute()
    except Exception as error:
        raise Unreadable(
            "truncated", f"the header is readable, its voxels are not all there ({_one_line(error)})"
        ) from error
    return _from_itk(path, "itk", image)


def _check_nrrd_end(path: Path) -> None:
    """Unpack gzipped voxels to the end, whose checksum ITK does not look at."""
    with open(path, "rb") as file:
        if not file.readline(16).startswith(b"NRRD"):
            return
        lines = list(iter(lambda: file.readline(4096).strip().lower(), b""))
        if b"encoding: gzip" not in lines and b"encoding: gz" not in lines:
            return
        if any(line.startswith((b"data file:", b"datafile:")) for line in lines):
            return
        _drain(gzip.GzipFile(fileobj=file), path)


def _from_itk(path: Path, kind: str, image: Any) -> Scan:
    import SimpleITK as sitk  # noqa: N813

    array = sitk.GetArrayFromImage(image)  # (z, y, x) or (z, y, x, c)
    spatial = image.GetDimension()
    array = array.transpose(*reversed(range(spatial)), *range(spatial, array.ndim))
    return Scan(path, kind, array, channels=image.GetNumberOfComponentsPerPixel(), affine=_affine_of(image))


def _affine_of(image: Any) -> np.ndarray:
    """Return the (4, 4) affine to RAS millimetres; ITK's world is LPS."""
    dims = image.GetDimension()
    keep = min(dims, 3)
    direction = np.asarray(image.GetDirection(), float).reshape(dims, dims)[:keep, :keep]
    affine = np.eye(4)
    affine[:keep, :keep] = direction * np.asarray(image.GetSpacing(), float)[:keep]
    affine[:keep, 3] = np.asarray(image.GetOrigin(), float)[:keep]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _read_picture(path: Path) -> Scan:
    from PIL import Image

    ending = _broken_ending(path)
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                return _read_tiff(path)
            image.load()
            palette = image.mode == "P"
            array = np.asarray(image)
    except Exception as error:
        if path.suffix.lower() in (".tif", ".tiff") and "identify" in str(error):  # 16-bit colour, for one
            return _read_tiff(path)
        short = ending or "truncat" in str(error)
        raise Unreadable("truncated" if short else "corrupt_header", f"cannot be read: {_one_line(error)}") from error
    if ending:
        raise Unreadable("truncated", ending)
    channels = array.shape[2] if array.ndim == 3 else 1
    return Scan(path, "picture", array, channels=channels, is_palette=palette)


def _broken_ending(path: Path) -> str:
    """Say what is missing at the end of a PNG or JPEG; decoders fill the gap with grey and keep silent."""
    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(max(0, path.stat().st_size - 64))
        end = file.read()
    if start == b"\x89PNG\r\n\x1a\n" and len(end.partition(b"IEND")[2]) < 4:  # a checksum follows
        return "the PNG ends without its IEND chunk"
    if start[:3] == b"\xff\xd8\xff" and b"\xff\xd9" not in end:
        return "the JPEG ends without its end marker"
    return "only the first bytes are there" if len(start) < 8 else ""


def _read_tiff(path: Path) -> Scan:
    import SimpleITK as sitk  # noqa: N813

    scan = _from_itk(path, "itk", sitk.ReadImage(str(path)))
    if scan.grid == scan.array.shape[:2] or (scan.channels > 1 and scan.array.ndim == 3):
        # one page: a picture, in rows and columns like the others
        return Scan(path, "picture", np.swapaxes(scan.array, 0, 1), channels=scan.channels)
    return scan


def _read_dicom(path: Path) -> Scan:
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.is_file():
        return _from_itk(path, "dicom", sitk.ReadImage(str(path)))
    files = sorted(file for file in path.iterdir() if file.is_file() and not is_hidden(file))
    files = [file for file in files if file.name.upper() != "DICOMDIR"]
    for file in files:
        if file.stat().st_size == 0:
            raise Unreadable("zero_byte", f"slice {file.name} has 0 bytes")
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
    if not series:
        raise Unreadable("corrupt_header", f"none of its {len(files)} files can be read as DICOM")
    if len(series) > 1:
        raise Unreadable("mixed_series", f"the folder holds {len(series)} DICOM series")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    scan = _from_itk(path, "dicom", reader.Execute())
    scan.notes += _slice_notes(names, len(files))
    return scan


def _slice_notes(names: tuple[str, ...], files: int) -> list[tuple[str, str]]:
    notes = []
    if files > len(names):
        notes.append(("uneven_slices", f"{files - len(names)} of {files} files cannot be read as slices of the series"))
    positions = np.array([_position(name) for name in names])
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1) if len(names) > 2 else np.ones(1)
    if np.isfinite(gaps).all() and np.ptp(gaps) > max(0.01, 0.05 * float(np.median(gaps))):
        notes.append(("uneven_slices", f"the distance of slices varies from {gaps.min():.3g} to {gaps.max():.3g} mm"))
    return notes


def _position(name: str) -> list[float]:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    tag = "0020|0032"  # Image Position (Patient)
    return [float(n) for n in reader.GetMetaData(tag).split("\\")] if reader.HasMetaDataKey(tag) else [np.nan] * 3
