# SPDX-License-Identifier: Apache-2.0
"""MONAI's warp by a displacement field, keeping nothing between calls."""

from __future__ import annotations

import torch
from monai.networks.blocks.warp import Warp
from torch import Tensor


class FieldWarp(Warp):
    """Read an image (B, C, *spatial) where a displacement field (B, axes, *spatial) in voxels leads.

    MONAI's ``Warp`` keeps the grid of its last call, in that call's precision and on its device, and takes it again
    for any field of that size. So a network that holds one cannot be exported, a traced one knows a single size, and
    bfloat16, which has no odd numbers above 256, spoils what comes after it. Here the grid is made anew.

    Args:
        mode: ``bilinear`` (also of volumes), ``nearest`` or ``bicubic`` (of planes).
        padding_mode: what lies outside: ``border``, ``zeros`` or ``reflection``.

    Example:
        >>> image, field = torch.arange(3.0).reshape(1, 1, 1, 3), torch.zeros(1, 2, 1, 3)
        >>> field[:, 1] = 0.5
        >>> FieldWarp()(image, field).tolist()
        [[[[0.5, 1.5, 2.0]]]]
    """

    def __init__(self, mode: str = "bilinear", padding_mode: str = "border") -> None:
        super().__init__(mode=mode, padding_mode=padding_mode)

    def get_reference_grid(self, ddf: Tensor, jitter: bool = False, seed: int = 0) -> Tensor:
        """Return the positions (axes, *spatial) of all voxels."""
        axes = [torch.arange(side, dtype=ddf.dtype, device=ddf.device) for side in ddf.shape[2:]]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))
