# SPDX-License-Identifier: Apache-2.0
"""The displacement of each voxel of a simulated pair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_ext.map_on_grid import MapOnGrid
from monai_ext.smooth_map import SmoothMap


def true_displacement(mapping: SmoothMap, affine: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return how many voxels the map leads away from each voxel, as a network is to find it.

    Args:
        mapping: from the fixed to the moving scan's RAS mm.
        affine: (4, 4) of the grid on which both scans lie.
        shape: voxels of the grid along its three axes.

    Returns:
        (3, *shape) in voxels, one channel an axis.
    """
    grid = MapOnGrid(mapping, affine.detach().cpu().double().numpy(), shape)
    planes = [grid.plane(index) - grid.points(index) for index in range(shape[0])]
    moved = np.linalg.solve(grid.affine[:3, :3], np.concatenate(planes).T)
    return torch.from_numpy(moved).float().reshape(3, *shape)
