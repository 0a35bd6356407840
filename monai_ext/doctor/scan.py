# SPDX-License-Identifier: Apache-2.0
"""One scan in memory, whatever the format of its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


class Unreadable(Exception):  # noqa: N818  (it becomes a finding, not an error that the user sees)
    """A file that cannot be read; ``code`` is a rule of `finding.RULES`.

    Example:
        >>> Unreadable("truncated", "10 of 20 bytes are there").code
        'truncated'
    """

    def __init__(self, code: str, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.remedy = remedy


@dataclass
class Scan:
    """Voxels and geometry of one file.

    Args:
        path: the file, or the folder of a DICOM series.
        kind: "nifti", "itk" (NRRD, MHA), "dicom" or "picture" (PNG, JPEG, TIFF).
        array: voxels (X, Y, Z, ...), pictures (H, W) or (H, W, C).
        channels: values at each voxel: 3 for RGB.
        affine: (4, 4) voxel index to RAS millimetres; None for pictures.
        header: the NIfTI header; None for other formats.
        is_palette: a picture whose values are colour numbers.
        notes: what the reader noticed: (code, what).
    """

    path: Path
    kind: str
    array: np.ndarray
    channels: int = 1
    affine: np.ndarray | None = None
    header: Any = None
    is_palette: bool = False
    notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def grid(self) -> tuple[int, ...]:
        """Size of the spatial axes in the order x, y, z, without trailing ones."""
        if self.kind == "picture":
            height, width = self.array.shape[:2]
            return (width, height)
        shape = self.array.shape[:-1] if self.kind == "itk" and self.channels > 1 else self.array.shape
        shape = tuple(shape[:3])
        while len(shape) > 2 and shape[-1] == 1:
            shape = shape[:-1]
        return shape

    @property
    def series(self) -> tuple[int, ...]:
        """Size of the axes after the third spatial one; empty for what is healthy."""
        shape = self.array.shape[:-1] if self.kind in ("itk", "picture") and self.channels > 1 else self.array.shape
        return tuple(shape[3:])
