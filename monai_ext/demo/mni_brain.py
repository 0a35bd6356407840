# SPDX-License-Identifier: Apache-2.0
"""The MNI152 average brain from the files inside the nilearn package: T1 and tissue maps on a grid of choice."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_ext.demo.grid import VoxelGrid, average_onto
from monai_ext.files import sha256_of

CLASS_NAMES = ("background", "cerebrospinal fluid", "grey matter", "white matter")

LABEL_RULE = (
    "Brain = voxels where the skull-stripped T1 average is above 0 (on coarser or warped grids: where at least half "
    "of the voxel is brain). grey and white = the tissue probability maps / 255; csf = max(0, 1 - grey - white). "
    "Label = 0 outside of the brain, else 1 + argmax(csf, grey, white), the first on a tie. No manual editing."
)

_FILES = {kind: f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")}


@dataclass(frozen=True)
class BrainMaps:
    """T1 and tissue maps on one grid, all float32 (X, Y, Z) in 0..1.

    Args:
        grid: where the voxels are.
        t1: skull-stripped T1 average, 0 outside of the brain.
        brain: share of the voxel that is brain.
        grey: share of grey matter.
        white: share of white matter.
    """

    grid: VoxelGrid
    t1: NDArray[np.float32]
    brain: NDArray[np.float32]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]

    @property
    def maps(self) -> tuple[NDArray[np.float32], ...]:
        """t1, brain, grey, white."""
        return self.t1, self.brain, self.grey, self.white

    def onto(self, grid: VoxelGrid) -> BrainMaps:
        """Return the maps averaged onto another grid."""
        return BrainMaps(grid, *(average_onto(volume, self.grid, grid) for volume in self.maps))

    def crop(self, box: tuple[slice, slice, slice]) -> BrainMaps:
        """Return a part of the maps with its own grid."""
        return BrainMaps(self.grid.crop(box), *(volume[box] for volume in self.maps))

    def box(self, margin: int) -> tuple[slice, slice, slice]:
        """Return the brain's bounding box, wider by ``margin`` voxels where the grid has them."""
        sides = []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            filled = np.flatnonzero((self.brain > 0).any(axis=others))
            sides.append(slice(max(0, filled[0] - margin), min(self.grid.shape[axis], filled[-1] + 1 + margin)))
        return sides[0], sides[1], sides[2]

    def label(self) -> NDArray[np.uint8]:
        """Return the label map (X, Y, Z): 0 background, 1 CSF, 2 grey, 3 white matter, by `LABEL_RULE`."""
        csf = np.maximum(1 - self.grey - self.white, 0)
        tissue = np.where(self.grey > csf, np.uint8(2), np.uint8(1))  # several times faster than argmax over a stack
        tissue[self.white > np.maximum(csf, self.grey)] = 3
        tissue[self.brain < 0.5] = 0
        return tissue


def load_brain(resolution: int = 1) -> BrainMaps:
    """Read the MNI152 maps, averaged over cubes of ``resolution`` mm; nothing is downloaded.

    The files are read from nilearn's folder without importing nilearn, which takes seconds.

    Args:
        resolution: voxel size in mm; 1 gives the original (197, 233, 189) voxels unchanged.

    Raises:
        ImportError: nilearn is not installed or lacks the files.

    Example:
        >>> load_brain(resolution=4).grid.shape
        (50, 59, 48)
    """
    images = [nib.Nifti1Image.from_filename(path) for path in source_files().values()]
    t1, grey, white = (np.asarray(image.dataobj, dtype=np.float32) / np.float32(255) for image in images)
    # the files have voxels of 1 mm along the RAS axes, and the affine leads to voxel centres
    x, y, z = (float(value) - 0.5 for value in images[0].affine[:3, 3])
    grid = VoxelGrid((t1.shape[0], t1.shape[1], t1.shape[2]), (1.0, 1.0, 1.0), (x, y, z))
    brain = BrainMaps(grid, t1, (t1 > 0).astype(np.float32), grey, white)
    return brain.onto(grid.coarsen((float(resolution),) * 3))


def source_files() -> dict[str, Path]:
    """Return the paths of the three volumes (t1, gm, wm) inside the installed nilearn.

    Raises:
        ImportError: nilearn is not installed or lacks the files.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise ImportError('The demo data come from the nilearn package: pip install "monai-ext[demo]"')
    folder = Path(spec.origin).parent / "datasets" / "data"
    files = {kind: folder / name for kind, name in _FILES.items()}
    for path in files.values():
        if not path.is_file():
            raise ImportError(f'{path} is missing in this nilearn: pip install --force-reinstall "monai-ext[demo]"')
    return files


def source_record() -> dict[str, str]:
    """Return the name and SHA-256 of each file that the demo data are made of."""
    return {path.name: sha256_of(path) for path in source_files().values()}
