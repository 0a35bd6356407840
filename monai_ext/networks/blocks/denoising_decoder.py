# SPDX-License-Identifier: Apache-2.0
"""Decoder from an image embedding back to the image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn as nn
from monai.networks.blocks import UnetResBlock
from torch import Tensor

GROUPS = ("group", {"num_groups": 8})


class DenoisingDecoder(nn.Module):
    """Decode an image from its embedding, for SAMora's pixel level; thrown away afterwards.

    Residual blocks with transposed convolutions between them, each of which doubles the side. Nothing skips past the
    embedding: the noisy image would be most of the answer.

    Args:
        out_channels: of the image.
        channels: of the embedding, then after each doubling; four of them lead from patches of 16 pixels to pixels.
        norm: name (and arguments) of MONAI's normalisation layer.

    Shape:
        (B, channels[0], g, g) -> (B, out_channels, 16 * g, 16 * g) with the default four doublings

    Raises:
        ValueError: fewer than two widths.

    Example:
        >>> import torch
        >>> DenoisingDecoder(channels=(32, 8, 8, 8, 8))(torch.rand(1, 32, 4, 4)).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self,
        out_channels: int = 1,
        channels: Sequence[int] = (256, 128, 64, 32, 16),
        norm: str | tuple = GROUPS,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"channels must be the embedding's and at least one more, got {list(channels)}.")
        layers: list[nn.Module] = [UnetResBlock(2, channels[0], channels[0], 3, 1, norm)]
        for wide, narrow in pairwise(channels):
            layers += [nn.ConvTranspose2d(wide, narrow, 2, stride=2), UnetResBlock(2, narrow, narrow, 3, 1, norm)]
        self.layers = nn.Sequential(*layers)
        self.to_image = nn.Conv2d(channels[-1], out_channels, kernel_size=1)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.to_image(self.layers(embedding))
