# SPDX-License-Identifier: Apache-2.0
"""Head that compares whole images: the mean of an embedding, projected to a teacher's width."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor


class PooledHead(nn.Module):
    """Bring an image embedding to the form of a teacher's vector, for SAMora's image level; thrown away afterwards.

    Args:
        in_channels: of the embedding; 256 in Segment Anything.
        out_channels: of the teacher's vector; 4096 for `ResNetSK`.

    Shape:
        (B, in_channels, g, g) -> (B, out_channels)

    Example:
        >>> sum(weight.numel() for weight in PooledHead().parameters())
        1052672
    """

    def __init__(self, in_channels: int = 256, out_channels: int = 4096) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear(embedding.mean(dim=(2, 3)))
