# SPDX-License-Identifier: Apache-2.0
"""The folder of the demo data: whole files only, the same bytes each time, and nobody else's folder touched."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_ext.demo.grid import VoxelGrid
from monai_ext.errors import InputError
from monai_ext.files import atomic_write, sha256_of, write_json

MANIFEST = "demo_data.json"

_WRITER = "monai_ext demo_data"
_MNI_SPACE = 4  # NIfTI's code for coordinates of the MNI152 brain
_LEFTOVER = re.compile(r"\.tmp-\w{8}-.+\.(nii\.gz|png|json|csv|txt)")


class DemoFolder:
    """Writes the files of the demo data and keeps a list of them in ``demo_data.json``.

    A folder with files in it is taken only if that list is there. `finish` removes what an earlier run wrote and
    this one did not (slices of another resolution); files of other origin stay.

    Args:
        path: the folder, made if it does not exist.

    Raises:
        InputError: the path is a file, cannot be written, or is a folder with somebody else's files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.written: list[str] = []
        self._earlier = _claim(self.path)
        try:
            write_json(
                self.path / MANIFEST, {"written_by": _WRITER, "status": "unfinished", "files": sorted(self._earlier)}
            )
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); give another path.") from error

    def write_nifti(self, name: str, array: NDArray, grid: VoxelGrid) -> None:
        """Write a gzipped NIfTI-1 file in MNI space without time stamp or file name inside."""
        image = nib.Nifti1Image(array, grid.affine)
        image.set_sform(grid.affine, _MNI_SPACE)
        image.set_qform(grid.affine, _MNI_SPACE)
        image.header.set_xyzt_units("mm")
        with atomic_write(self._note(name)) as temporary:
            temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=3, mtime=0))

    def write_png(self, name: str, array: NDArray[np.uint8]) -> None:
        """Write (rows, columns) as 8-bit grey, or (rows, columns, 3) as colours."""
        with atomic_write(self._note(name)) as temporary:
            Image.fromarray(array).save(temporary, format="PNG")

    def write_json(self, name: str, content: object) -> None:
        """Write indented JSON."""
        write_json(self._note(name), content)

    def put_text(self, name: str, text: str) -> None:
        """Write UTF-8 text with the line ends as given."""
        with atomic_write(self._note(name)) as temporary:
            temporary.write_bytes(text.encode("utf-8"))

    def finish(self, record: dict[str, object]) -> None:
        """Remove what an earlier run left, and write the list of files with their SHA-256."""
        for name in set(self._earlier).difference(self.written):
            (self.path / name).unlink(missing_ok=True)
        files = {name: sha256_of(self.path / name) for name in sorted(self.written)}
        write_json(self.path / MANIFEST, {"written_by": _WRITER, "status": "finished", **record, "files": files})

    def _note(self, name: str) -> Path:
        self.written.append(name)
        return self.path / name


def _claim(path: Path) -> list[str]:
    """Make sure that the folder is ours to write in, and return the files that an earlier run listed there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        filled = any(path.iterdir())
    except FileExistsError as error:
        raise InputError(f"{path}: output_dir must be a folder, this is a file; give another path.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be made or read ({error.strerror}); choose a folder of your own.") from error
    if not filled:
        return []
    files = _earlier_files(path)
    for leftover in path.rglob(".tmp-*"):  # of a run that was killed
        if _LEFTOVER.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)
    return files


def _earlier_files(path: Path) -> list[str]:
    """Return the names in an existing ``demo_data.json`` that lie inside the folder."""
    try:
        record = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        ours = record["written_by"] == _WRITER
        names = [str(name) for name in record["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        ours, names = False, []
    if not ours:
        raise InputError(
            f"{path}: the folder must be new, empty or written by demo_data, and it holds other files; "
            "give another --output_dir or empty it."
        )
    # an interrupted run has not listed its slices, the only files whose names depend on the resolution
    slices = [found.relative_to(path).as_posix() for found in path.glob("slices/*/axial_[0-9][0-9][0-9].png")]
    root = path.resolve()
    return [name for name in {*names, *slices} if (root / name).resolve().is_relative_to(root)]
