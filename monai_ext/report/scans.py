# SPDX-License-Identifier: Apache-2.0
"""Images as a reader looks at them: volumes cut along the patient's axes, pictures as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from monai_ext.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
PLANES = ("axial", "coronal", "sagittal")  # in the order in which they are shown
_WORLD = "xyz"
_EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, top, bottom of the displayed slice
_PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
_NIFTI = (".nii", ".nii.gz", ".img", ".hdr", ".mgz")


class Scan(Protocol):
    """What the report asks of an image: how many slices a plane has, one of them, and what to call it."""

    @property
    def flat(self) -> bool:
        """Whether there is one slice only."""

    def count(self, plane: str) -> int:
        """Return the number of slices in a plane."""

    def frame(self, plane: str, index: int) -> np.ndarray:
        """Return one slice (rows, columns) or (rows, columns, 3), as it is to be displayed."""

    def size_mm(self, plane: str) -> tuple[float, float]:
        """Return width and height of a slice in mm (in pixels when there is no unit)."""

    def caption(self, plane: str, index: int) -> str:
        """Say which slice this is."""

    def edges(self, plane: str) -> str:
        """Return the letters for left, right, top and bottom, or nothing."""

    def shown_plane(self, plane: str) -> str:
        """Return the plane that is shown when ``plane`` is asked for; nothing for a picture, which has none."""

    def to_frame(self, column: float, row: float) -> tuple[float, float]:
        """Return where a pixel of the slice that a network was given lies in the displayed one."""


class PictureScan:
    """A 2-D picture, grey or RGB, voxels (rows, columns) or (rows, columns, 3)."""

    flat = True

    def __init__(self, voxels: np.ndarray) -> None:
        self.voxels = voxels

    def count(self, plane: str) -> int:
        """Return 1."""
        return 1

    def frame(self, plane: str, index: int) -> np.ndarray:
        """Return the picture."""
        return self.voxels

    def size_mm(self, plane: str) -> tuple[float, float]:
        """Return width and height in pixels."""
        return float(self.voxels.shape[1]), float(self.voxels.shape[0])

    def caption(self, plane: str, index: int) -> str:
        """Return nothing: there is only one slice."""
        return ""

    def edges(self, plane: str) -> str:
        """Return nothing: a picture has no patient directions."""
        return ""

    def shown_plane(self, plane: str) -> str:
        """Return nothing: a picture lies in no plane."""
        return ""

    def to_frame(self, column: float, row: float) -> tuple[float, float]:
        """Return the same pixel: networks are given pictures as they are displayed."""
        return column, row


class VolumeScan:
    """A volume (X, Y, Z) turned so that its axes run to the patient's right, front and head (RAS).

    Slices are displayed in the radiologists' way: the patient's right on the left.

    Args:
        voxels: the volume in its own axis order.
        affine: 4x4 matrix from voxel to world (RAS, mm).
        two_axes: the file has no third axis; networks are given it as a picture then, not turned.
    """

    def __init__(self, voxels: np.ndarray, affine: np.ndarray, two_axes: bool = False) -> None:
        import nibabel as nib

        self._codes = nib.orientations.io_orientation(affine)  # per own axis: world axis and direction
        self._affine = affine @ nib.orientations.inv_ornt_aff(self._codes, voxels.shape)
        self.voxels = nib.orientations.apply_orientation(voxels, self._codes)
        self._spacing = nib.affines.voxel_sizes(self._affine)
        self.flat = min(self.voxels.shape) == 1
        self._two_axes = two_axes
        self._only = int(self.voxels.shape.index(1)) if self.flat else None

    def count(self, plane: str) -> int:
        """Return the number of slices in the plane."""
        return int(self.voxels.shape[self._axis(plane)])

    def frame(self, plane: str, index: int) -> np.ndarray:
        """Return slice ``index``, counted from the patient's left, back or feet."""
        where: list[int | slice] = [slice(None)] * 3
        where[self._axis(plane)] = index  # a view; take() would first copy the turned volume
        return self.voxels[tuple(where)][::-1, ::-1].T

    def size_mm(self, plane: str) -> tuple[float, float]:
        """Return width and height of a slice in mm."""
        width, height = (axis for axis in range(3) if axis != self._axis(plane))
        return tuple(float(self.voxels.shape[axis] * self._spacing[axis]) for axis in (width, height))  # type: ignore

    def caption(self, plane: str, index: int) -> str:
        """Name the slice by its number in the file and its place in world mm; a single slice needs no name."""
        if self.flat:
            return ""
        axis = self._axis(plane)
        own = int((self._codes[:, 0] == axis).argmax())
        count = self.voxels.shape[axis]
        number = index if self._codes[own, 1] > 0 else count - 1 - index
        middle = [(size - 1) / 2 for size in self.voxels.shape]
        middle[axis] = index
        place = float((self._affine @ [*middle, 1.0])[axis])
        return f"slice {number + 1} of {count}, {_WORLD[axis]} = {place:.1f} mm"

    def edges(self, plane: str) -> str:
        """Return the patient's directions at the left, right, top and bottom edge."""
        return next(letters for name, letters in _EDGES.items() if _AXES[name] == self._axis(plane))

    def shown_plane(self, plane: str) -> str:
        """Return the plane asked for, or that of the only slice; nothing where the file has two axes."""
        return "" if self._two_axes else next(name for name, axis in _AXES.items() if axis == self._axis(plane))

    def to_frame(self, column: float, row: float) -> tuple[float, float]:
        """Return the same pixel of a slice; the pixel of a file of two axes is turned as the file is for display."""
        if not self._two_axes:
            return column, row
        place, shape = [0.0, 0.0, 0.0], self.voxels.shape
        for value, (axis, direction) in zip((column, row, 0.0), self._codes.astype(int), strict=True):
            place[axis] = value if direction > 0 else shape[axis] - 1 - value
        across, down = (axis for axis in range(3) if axis != self._only)
        return shape[across] - 1 - place[across], shape[down] - 1 - place[down]

    def locate(self, world: Sequence[float], plane: str) -> tuple[float, float, float]:
        """Return slice, column and row at which a place (RAS mm) lies; none of them is a whole number, or cut off."""
        import numpy as np

        place = np.linalg.inv(self._affine)[:3] @ [*world, 1.0]
        axis = self._axis(plane)
        across, down = (other for other in range(3) if other != axis)
        shape = self.voxels.shape
        return float(place[axis]), float(shape[across] - 1 - place[across]), float(shape[down] - 1 - place[down])

    def _axis(self, plane: str) -> int:
        return _AXES[plane] if self._only is None else self._only


def read_scan(path: Path) -> Scan:
    """Read NIfTI, a picture, or anything SimpleITK knows (NRRD, MHA, a DICOM folder).

    Raises:
        InputError: the file is missing, unreadable, or has neither 2 nor 3 axes.
    """
    if not path.exists():
        raise InputError(f"{path.name}: file not found.")
    try:
        if path.suffix.lower() in _PICTURES:
            return _read_picture(path)
        voxels, affine = _read_nifti(path) if path.name.lower().endswith(_NIFTI) else _read_itk(path)
    except InputError:
        raise
    except Exception as error:  # each reader has its own errors, and a picture less must not cost the report
        raise InputError(f"{path.name}: cannot be read ({type(error).__name__}).") from error
    return VolumeScan(_three_axes(voxels, path), affine, two_axes=voxels.ndim == 2)


def _read_picture(path: Path) -> PictureScan:
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        # palette files are label maps, whose indices must survive; alpha says nothing about anatomy
        mode = picture.mode if picture.mode in ("L", "P", "I", "I;16", "F", "1") else "RGB"
        voxels = np.asarray(picture if mode != "RGB" else picture.convert("RGB"))
    return PictureScan(voxels.astype(np.uint8) if voxels.dtype == bool else voxels)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import nibabel as nib
    import numpy as np

    image = nib.load(path)
    stored = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    # a scaled integer file comes as float64, which a large CT cannot afford
    return (stored.astype(np.float32) if stored.dtype == np.float64 else stored), np.asarray(image.affine)  # type: ignore[attr-defined]


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np
    import SimpleITK

    if path.is_dir():
        image = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))
    else:
        image = SimpleITK.ReadImage(str(path))
    if image.GetDimension() != 3:
        raise InputError(f"{path.name}: has {image.GetDimension()} axes, a volume has 3.")
    voxels = SimpleITK.GetArrayFromImage(image)
    voxels = voxels[..., 0] if image.GetNumberOfComponentsPerPixel() > 1 else voxels
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return voxels.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK counts to the left and back


def _three_axes(voxels: np.ndarray, path: Path) -> np.ndarray:
    while voxels.ndim > 3:
        voxels = voxels[..., 0]  # the first modality or time point stands for all
    if voxels.ndim < 2:
        raise InputError(f"{path.name}: has {voxels.ndim} axes, an image has 2 or 3.")
    return voxels if voxels.ndim == 3 else voxels[..., None]
