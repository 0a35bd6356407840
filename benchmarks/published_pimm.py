# SPDX-License-Identifier: Apache-2.0
"""DeSAM's mask module as published: everything anew for each prompt, image and prompt joined by concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn as nn
from monai.networks.blocks.dynunet_block import get_conv_layer
from torch import Tensor

CHANNELS = (256, 128, 64)


class PublishedPIMM(nn.Module):
    """The mask module of the paper (https://arxiv.org/abs/2306.00499), written from its description.

    Its parameters have the published names, which are those of `monai_ext.networks.blocks.pimm.PIMM`.

    Args:
        in_channels: channels D of the encoder's features.

    Shape:
        mask_embedding (B, 256, g, g), features three times (B, D, g, g), shallow to deep -> logits (B, 1, 4g, 4g)
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.mask_embedding_fusion = _Block(2 * CHANNELS[0], CHANNELS[0])
        self.conv_blocks_context = nn.ModuleList(_Context(in_channels, c, ups) for ups, c in enumerate(CHANNELS))
        self.conv_blocks_localization = nn.ModuleList(_Localization(deep, c) for deep, c in pairwise(CHANNELS))
        self.seg_outputs = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in CHANNELS[1:])

    def forward(self, mask_embedding: Tensor, features: Sequence[Tensor]) -> Tensor:
        skips = [context(level) for context, level in zip(self.conv_blocks_context, reversed(features), strict=True)]
        x = self.mask_embedding_fusion(torch.cat([mask_embedding, skips[0]], dim=1))
        outputs = []
        for localization, skip, head in zip(self.conv_blocks_localization, skips[1:], self.seg_outputs, strict=True):
            x = localization(x, skip)
            outputs.append(head(x))  # the first is computed and not used
        return outputs[-1]


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = get_conv_layer(2, in_channels, out_channels, kernel_size=3)
        self.conv2 = get_conv_layer(2, out_channels, out_channels, kernel_size=3)
        self.conv3 = get_conv_layer(2, in_channels, out_channels, kernel_size=1)
        self.norm = nn.InstanceNorm2d(out_channels)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        self.se = _Gate(out_channels)
        self.changes = in_channels != out_channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.norm(self.conv3(x)) if self.changes else x
        hidden = self.act(self.norm(self.conv1(x)))
        hidden = self.se(self.norm(self.conv2(hidden)))
        hidden += shortcut
        return self.act(hidden)


class _Gate(nn.Module):
    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(self.pool(x).flatten(1))[:, :, None, None]


class _Context(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, ups: int) -> None:
        super().__init__()
        self.block_init = _Block(in_channels, out_channels)
        self.residual_block = nn.Sequential(
            *(nn.Sequential(_up(out_channels, out_channels), _Block(out_channels, out_channels)) for _ in range(ups))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.residual_block(self.block_init(x))


class _Localization(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv = _up(in_channels, out_channels)
        self.res_block = _Block(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.res_block(torch.cat([self.transp_conv(x), skip], dim=1))


def _up(in_channels: int, out_channels: int) -> nn.Module:
    return get_conv_layer(2, in_channels, out_channels, kernel_size=2, stride=2, is_transposed=True)
