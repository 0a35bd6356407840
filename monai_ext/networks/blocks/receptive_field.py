# SPDX-License-Identifier: Apache-2.0
"""Receptive-field block, in the form that SAM2-UNet uses."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class ConvNorm2d(nn.Module):
    """A convolution without bias and a batch normalisation, without activation; the size is kept.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: (height, width) of the kernel, both odd.
        dilation: spacing of the kernel's points.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W)

    Example:
        >>> ConvNorm2d(3, 8, (1, 3))(torch.rand(2, 3, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], dilation: int = 1) -> None:
        super().__init__()
        padding = (dilation * (kernel_size[0] // 2), dilation * (kernel_size[1] // 2))
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class ReceptiveFieldBlock(nn.Module):
    """Four branches with growing receptive fields, joined, plus a projected shortcut.

    The idea is Liu et al. 2018 (https://arxiv.org/abs/1711.07767); SAM2-UNet
    (https://arxiv.org/abs/2408.08870) reduces each encoder level to 64 channels with it. There is no activation
    inside the branches: the published code has none.

    ::

        x ─┬─ 1x1 ───────────────────────────────┐
           ├─ 1x1 ─ 1x3 ─ 3x1 ─ 3x3 (dilation 3) ─┤
           ├─ 1x1 ─ 1x5 ─ 5x1 ─ 3x3 (dilation 5) ─┼─ concat ─ 3x3 ─┐
           ├─ 1x1 ─ 1x7 ─ 7x1 ─ 3x3 (dilation 7) ─┘                + ─ ReLU
           └─ 1x1 ─────────────────────────────────────────────────┘

    Args:
        in_channels: channels of the encoder level.
        out_channels: channels that the decoder works with.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W)

    Example:
        >>> ReceptiveFieldBlock(16, 8)(torch.rand(1, 16, 11, 11)).shape
        torch.Size([1, 8, 11, 11])
    """

    def __init__(self, in_channels: int, out_channels: int = 64) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(ConvNorm2d(in_channels, out_channels, (1, 1)))
        self.branch1 = _branch(in_channels, out_channels, reach=3)
        self.branch2 = _branch(in_channels, out_channels, reach=5)
        self.branch3 = _branch(in_channels, out_channels, reach=7)
        self.conv_cat = ConvNorm2d(4 * out_channels, out_channels, (3, 3))
        self.conv_res = ConvNorm2d(in_channels, out_channels, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)]
        return F.relu(self.conv_cat(torch.cat(branches, dim=1)) + self.conv_res(x))


def _branch(in_channels: int, out_channels: int, reach: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm2d(in_channels, out_channels, (1, 1)),
        ConvNorm2d(out_channels, out_channels, (1, reach)),
        ConvNorm2d(out_channels, out_channels, (reach, 1)),
        ConvNorm2d(out_channels, out_channels, (3, 3), dilation=reach),
    )
