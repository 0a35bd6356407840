# SPDX-License-Identifier: Apache-2.0
"""Convolution in two branches, of which each image chooses its own mixture."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.blocks.anisotropic_res_block import conv_norm

SMALLEST_SQUEEZE = 32


class SelectiveKernel(nn.Module):
    """3x3 convolution in two branches, mixed channel by channel (Li et al. 2019, https://arxiv.org/abs/1903.06586).

    In the form of SimCLRv2 (https://arxiv.org/abs/2006.10029): both branches have a kernel of 3, and the mean of their
    sum over the image decides how much of each is taken.

    Args:
        channels: of input and output.
        stride: of the convolution.
        sk_ratio: channels of the squeezed mean as a part of ``channels``, at least 32.

    Shape:
        (B, channels, H, W) -> (B, channels, H / stride, W / stride), rounded up.

    Example:
        >>> SelectiveKernel(16, stride=2)(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(self, channels: int, stride: int = 1, sk_ratio: float = 0.0625) -> None:
        super().__init__()
        squeezed = max(int(channels * sk_ratio), SMALLEST_SQUEEZE)
        self.branches = conv_norm(channels, 2 * channels, (3, 3), (stride, stride))
        self.squeeze = conv_norm(channels, squeezed, (1, 1), (1, 1))
        self.select = nn.Conv2d(squeezed, 2 * channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = F.relu(self.branches(x)).chunk(2, dim=1)
        mean = (first + second).mean(dim=(2, 3), keepdim=True)  # (B, channels, 1, 1)
        wanted, other = self.select(F.relu(self.squeeze(mean))).chunk(2, dim=1)
        # the softmax over two branches is a sigmoid of their difference
        return torch.lerp(second, first, torch.sigmoid(wanted - other).to(first.dtype))
