# SPDX-License-Identifier: Apache-2.0
"""Residual block with squeeze-and-excitation that can take a concatenated input in parts."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks.dynunet_block import get_conv_layer
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from torch import Tensor

REDUCTION = 16


class BlockShare(NamedTuple):
    """What some of a block's input channels contribute to its two convolutions of the input.

    Attributes:
        main: their part of the first convolution, (B, out_channels, H, W).
        shortcut: their part of the shortcut's convolution, (B, out_channels, H, W).
    """

    main: Tensor
    shortcut: Tensor


class SEResBlock(nn.Module):
    """Two 3 x 3 convolutions, squeeze-and-excitation and a shortcut, as DeSAM's mask module is built of.

    Squeeze-and-excitation is Hu et al. 2018 (https://arxiv.org/abs/1709.01507), the block DeSAM's
    (https://arxiv.org/abs/2306.00499). No convolution has a bias. Each instance and channel is normalised by itself,
    with nothing learned or remembered, so that training and evaluation compute the same.

    ::

        x ─┬─ 3x3 ─ norm ─ LeakyReLU ─ 3x3 ─ norm ─ squeeze-and-excitation ─┐
           └─ nothing, or 1x1 ─ norm where the channels change ─────────────+ ─ LeakyReLU

    A convolution of concatenated maps is the sum of a convolution of each. Where one of them stays the same over many
    calls, as an image does over its prompts, `share` computes its part once and `join` adds what varies.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, at least 16.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W), with more than one pixel.

    Raises:
        ValueError: fewer than 16 output channels.

    Example:
        >>> block = SEResBlock(24, 16)
        >>> import torch
        >>> prompt, image = torch.rand(3, 8, 5, 5), torch.rand(1, 16, 5, 5)
        >>> joined = block.join(block.share(prompt), block.share(image, first=8))
        >>> together = torch.cat([prompt, image.expand(3, -1, -1, -1)], dim=1)
        >>> joined.shape, torch.allclose(joined, block(together), atol=1e-4)
        (torch.Size([3, 16, 5, 5]), True)
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if out_channels < REDUCTION:
            raise ValueError(
                f"out_channels must be at least {REDUCTION}, the reduction of its gate, got {out_channels}."
            )
        self.in_channels = in_channels
        self.conv1 = get_conv_layer(2, in_channels, out_channels, kernel_size=3)
        self.conv2 = get_conv_layer(2, out_channels, out_channels, kernel_size=3)
        self.conv3 = get_conv_layer(2, in_channels, out_channels, kernel_size=1)
        self.norm = nn.InstanceNorm2d(out_channels)
        self.se = _bias_free_gate(out_channels)
        self.projects = in_channels != out_channels
        if not self.projects:
            self.conv3.requires_grad_(False)  # in published files, but never executed: no optimiser should wait for it

    def forward(self, x: Tensor) -> Tensor:
        if self.projects:
            return self.join(self.share(x))
        return self._finish(self.conv1(x), x)

    def share(self, x: Tensor, first: int = 0) -> BlockShare:
        """Convolve some channels of the input, those from number ``first`` on.

        Args:
            x: (B, C, H, W), the channels ``first`` to ``first + C`` of the whole input.
            first: the place of its first channel.

        Raises:
            ValueError: the block has no such channels, or its shortcut is the input itself.
        """
        last = first + x.shape[1]
        if not self.projects:
            raise ValueError(
                f"a block from {self.in_channels} to as many channels adds its input as it is and takes it whole only."
            )
        if last > self.in_channels:
            raise ValueError(f"the block has {self.in_channels} input channels, got number {first} to {last - 1}.")
        main, shortcut = self.conv1.conv.weight, self.conv3.conv.weight
        return BlockShare(F.conv2d(x, main[:, first:last], padding=1), F.conv2d(x, shortcut[:, first:last]))

    def join(self, *shares: BlockShare) -> Tensor:
        """Finish the block from the shares of all its input channels; a batch of 1 serves all others."""
        main, shortcut = shares[0]
        for share in shares[1:]:
            main, shortcut = main + share.main, shortcut + share.shortcut
        return self._finish(main, self.norm(shortcut))

    def _finish(self, main: Tensor, shortcut: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.norm(main), inplace=True)
        hidden = self.se(self.norm(self.conv2(hidden)))
        return F.leaky_relu(hidden + shortcut, inplace=True)


def _bias_free_gate(channels: int) -> nn.Module:
    gate = ChannelSELayer(spatial_dims=2, in_channels=channels, r=REDUCTION)
    for linear in (gate.fc[0], gate.fc[2]):
        linear.register_parameter("bias", None)  # MONAI's has one, the published weights have none
    return gate
