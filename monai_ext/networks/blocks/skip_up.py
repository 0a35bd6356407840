# SPDX-License-Identifier: Apache-2.0
"""One step of SAM2-UNet's decoder: upsample, join the skip, convolve."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.nets.attentionunet import AttentionBlock
from torch import Tensor


class SkipUp(nn.Module):
    """Double the size of the deep map, put it behind the skip, and apply two convolutions.

    The decoder block of SAM2-UNet (https://arxiv.org/abs/2408.08870). Optionally the skip is first weighted by an
    attention gate driven by the deep map (Attention U-Net, Oktay et al. 2018, https://arxiv.org/abs/1804.03999,
    MONAI's block).

    Args:
        channels: channels of the skip, of the deep map and of the output.
        attention: gate the skip.

    Shape:
        deep (B, C, H, W), skip (B, C, H', W') -> (B, C, H', W'); usually H' = 2 H.

    Example:
        >>> SkipUp(8)(torch.rand(1, 8, 4, 4), torch.rand(1, 8, 8, 8)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, channels: int = 64, attention: bool = False) -> None:
        super().__init__()
        # the nested names are those of the published checkpoints
        self.conv = nn.Sequential(OrderedDict(double_conv=_double_conv(2 * channels, channels)))
        self.gate = (
            AttentionBlock(spatial_dims=2, f_int=max(channels // 2, 1), f_g=channels, f_l=channels)
            if attention
            else None
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        height, width = 2 * deep.shape[-2], 2 * deep.shape[-1]
        deep = F.interpolate(deep, size=(height, width), mode="bilinear", align_corners=True)
        if skip.shape[-2:] != deep.shape[-2:]:
            rows, columns = skip.shape[-2] - height, skip.shape[-1] - width
            deep = F.pad(deep, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        if self.gate is not None:
            skip = self.gate(g=deep, x=skip)
        return self.conv(torch.cat([skip, deep], dim=1))


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
