# SPDX-License-Identifier: Apache-2.0
"""Scanning a moved head: each voxel takes what the unmoved brain has where a known map leads."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from monai_ext.demo.grid import VoxelGrid
from monai_ext.demo.mni_brain import BrainMaps
from monai_ext.smooth_map import SmoothMap

# one voxel as large as all that is scanned, wide enough for a head that was turned
FIELD_OF_VIEW = VoxelGrid((1, 1, 1), spacing=(192.0, 232.0, 208.0), corner=(-96.0, -132.0, -98.0))


def pull_brain(brain: BrainMaps, mapping: SmoothMap, grid: VoxelGrid) -> BrainMaps:
    """Give each voxel of a grid the brain's values (linear interpolation) where the map leads.

    Args:
        brain: the head before it moved.
        mapping: from RAS mm on the grid to RAS mm in the brain.
        grid: of the new scan.

    Example:
        >>> from monai_ext.demo.mni_brain import load_brain
        >>> brain, none = load_brain(resolution=4), np.zeros((0, 3))
        >>> still = SmoothMap(np.eye(3), np.zeros(3), none, none, np.zeros(0))
        >>> bool(np.allclose(pull_brain(brain, still, brain.grid).t1, brain.t1))
        True
    """
    corner, spacing = np.asarray(brain.grid.corner), np.asarray(brain.grid.spacing)
    pulled = [np.empty(grid.shape, np.float32) for _ in brain.maps]
    for index in range(grid.shape[2]):  # slice by slice: coordinates of a whole volume take 200 MB
        plane = grid.crop((slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(index, index + 1))).positions()
        position = ((mapping(plane) - corner) / spacing - 0.5).T
        for volume, result in zip(brain.maps, pulled, strict=True):
            values = map_coordinates(volume, position, order=1, mode="constant")
            result[:, :, index] = values.reshape(grid.shape[:2])
    return BrainMaps(grid, *pulled)
