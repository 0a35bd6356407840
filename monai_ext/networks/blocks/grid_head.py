# SPDX-License-Identifier: Apache-2.0
"""Head that compares patch by patch: an embedding on a teacher's grid, at a teacher's width."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

ALIGNMENTS = ("bilinear", "bicubic", "nearest", "area")


class GridHead(nn.Module):
    """Bring an image embedding to the form of a teacher's map, for SAMora's patch level; thrown away afterwards.

    Args:
        in_channels: of the embedding; 256 in Segment Anything.
        out_channels: of the teacher's map; 1024 for `MAEEncoder`.
        grid: side of the teacher's map. An embedding of the same side is not resized.
        alignment: how others are: ``bilinear``, ``bicubic``, ``nearest`` or ``area``.

    Shape:
        (B, in_channels, g, g) -> (B, out_channels, grid, grid)

    Raises:
        ValueError: an unknown alignment.

    Example:
        >>> sum(weight.numel() for weight in GridHead().parameters())
        263168
    """

    def __init__(
        self, in_channels: int = 256, out_channels: int = 1024, grid: int = 14, alignment: str = "bilinear"
    ) -> None:
        super().__init__()
        if alignment not in ALIGNMENTS:
            raise ValueError(f"alignment must be one of {', '.join(ALIGNMENTS)}, got {alignment!r}.")
        self.grid = grid
        self.alignment = alignment
        self.project = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, embedding: Tensor) -> Tensor:
        if tuple(embedding.shape[-2:]) != (self.grid, self.grid):
            embedding = F.interpolate(embedding, (self.grid, self.grid), mode=self.alignment)
        return self.project(embedding)
