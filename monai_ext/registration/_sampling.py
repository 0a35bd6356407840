# SPDX-License-Identifier: Apache-2.0
"""Values between voxels, by ITK's rules: the outermost voxels continue to their faces, the rest is outside."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def sample_linear(values: Tensor, voxels: Tensor) -> Tensor:
    """Interpolate (C, *shape) linearly at voxel positions (N, 3), outermost voxels continued: (C, N).

    In double precision all through: positions in single precision are off by 3e-5 voxels, which shows in CT.
    """
    sides = voxels.new_tensor(values.shape[1:])
    places = ((2 * voxels + 1) / sides - 1).flip(-1)  # the last axis comes first
    found = F.grid_sample(values[None], places[None, None, None], "bilinear", "border", align_corners=False)
    return found[0, :, 0, 0]


def sample_nearest(values: Tensor, voxels: Tensor) -> Tensor:
    """Take the nearest of (C, *shape) at voxel positions (N, 3): (C, N); halves are rounded up, as by ITK."""
    last = voxels.new_tensor(values.shape[1:]) - 1
    place = (voxels + 0.5).floor().clamp(min=0).minimum(last).long()
    return values[:, place[:, 0], place[:, 1], place[:, 2]]
