# SPDX-License-Identifier: Apache-2.0
"""A coarse displacement field without kinks at its nodes."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from monai_ext.registration.displacement import WorldDisplacement

SIGMA = 1.0  # fine voxels


def smoothly_refined(field: WorldDisplacement, doublings: int = 3) -> WorldDisplacement:
    """Return the field on a finer grid of the same box, its kinks rounded off by a Gaussian of one fine voxel.

    A linear field has kinks at its nodes, and so has its inverse, at places that no grid can follow: an inverse stored
    on a grid errs most there. Rounded off over an eighth of the nodes' distance the field is much the same.

    Args:
        field: on its nodes.
        doublings: how often the nodes become twice as many along each axis.

    Raises:
        ValueError: a negative number of doublings.

    Example:
        >>> from monai_ext.registration.world_grid import WorldGrid
        >>> field = WorldDisplacement(torch.ones(3, 4, 4, 4), WorldGrid((4, 4, 4), torch.eye(4)))
        >>> smoothly_refined(field).values.shape, smoothly_refined(field).grid.spacing
        (torch.Size([3, 32, 32, 32]), (0.125, 0.125, 0.125))
    """
    if doublings < 0:
        raise ValueError(f"doublings must be at least 0, got {doublings}.")
    grid = field.grid
    for _ in range(doublings):
        grid = grid.refined()
    fine = WorldDisplacement.sampled(field, grid)
    values = [gaussian_filter(x.numpy(), SIGMA, mode="nearest") for x in fine.values]
    return WorldDisplacement(torch.from_numpy(np.stack(values)).to(field.values.device), grid)
