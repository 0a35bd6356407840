# SPDX-License-Identifier: Apache-2.0
"""Enlarges an embedding to the image's own pixels, with what a first decoder has enlarged already."""

from __future__ import annotations

import torch
import torch.nn as nn
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor


class HierarchicalPixelDecoder(nn.Module):
    """Four doublings from patches of 16 pixels to pixels; half way the features of a first stage join.

    The pixel decoder of H-SAM (Cheng et al. 2024, https://arxiv.org/abs/2403.18271). The first two doublings are those
    of Segment Anything.

    Args:
        dim: channels of the embedding, a multiple of 16.
        skip_channels: channels of the first stage's features.

    Shape:
        grid (B, dim, g, g), skip (B, skip_channels, 4g, 4g) -> (B, dim / 16, 16g, 16g)

    Raises:
        ValueError: ``dim`` is no multiple of 16.

    Example:
        >>> HierarchicalPixelDecoder(32, 4)(torch.rand(1, 32, 3, 3), torch.rand(1, 4, 12, 12)).shape
        torch.Size([1, 2, 48, 48])
    """

    def __init__(self, dim: int = 256, skip_channels: int = 32) -> None:
        super().__init__()
        if dim < 16 or dim % 16:
            raise ValueError(f"dim must be a multiple of 16, got {dim}.")
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.refine = nn.Sequential(
            nn.ConvTranspose2d(dim // 8 + skip_channels, dim // 8, 2, stride=2),
            LayerNorm2d(dim // 8),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 8, dim // 16, 2, stride=2),
            LayerNorm2d(dim // 16),
            nn.GELU(),
        )

    def forward(self, grid: Tensor, skip: Tensor) -> Tensor:
        return self.refine(torch.cat([self.enlarge(grid), skip], dim=1))
