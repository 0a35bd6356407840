# SPDX-License-Identifier: Apache-2.0
"""Bottleneck of a ResNet with a selective kernel."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.blocks.anisotropic_res_block import conv_norm
from monai_ext.networks.blocks.selective_kernel import SelectiveKernel

EXPANSION = 4


class SKBottleneck(nn.Module):
    """Bottleneck block of SimCLRv2's ResNets (https://arxiv.org/abs/2006.10029): 1x1, `SelectiveKernel`, 1x1.

    A block that changes stride or channels has a projection as its shortcut: mean over 2x2 pixels, 1x1 convolution.
    At the right and lower border without a stride the mean is that of the pixels there are, as the published weights
    were trained; a port to PyTorch that is in use counts zeros there.

    Args:
        in_channels: channels of the input.
        channels: channels inside; the output has four times as many.
        stride: of the selective kernel and the shortcut.
        projection: whether the shortcut is a projection; the first block of a stage has one.
        sk_ratio: see `SelectiveKernel`.

    Shape:
        (B, in_channels, H, W) -> (B, 4 * channels, H / stride, W / stride), rounded up.

    Raises:
        ValueError: without a projection shapes would not fit.

    Example:
        >>> import torch
        >>> SKBottleneck(8, 16, stride=2, projection=True)(torch.rand(2, 8, 8, 8)).shape
        torch.Size([2, 64, 4, 4])
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, projection: bool = False, sk_ratio: float = 0.0625
    ) -> None:
        super().__init__()
        out_channels = EXPANSION * channels
        if not projection and (stride != 1 or in_channels != out_channels):
            raise ValueError(
                f"without a projection in_channels must be {out_channels} and stride 1, got {in_channels} and {stride}."
            )
        self.stride = stride
        # in the order in which the published code makes them, which numbers its weights
        self.shortcut = conv_norm(in_channels, out_channels, (1, 1), (1, 1)) if projection else None
        self.reduce = conv_norm(in_channels, channels, (1, 1), (1, 1))
        self.kernel = SelectiveKernel(channels, stride, sk_ratio)
        self.expand = conv_norm(channels, out_channels, (1, 1), (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(_mean_of_four(x, self.stride))
        return F.relu(self.expand(self.kernel(F.relu(self.reduce(x)))) + kept)


def _mean_of_four(x: Tensor, stride: int) -> Tensor:
    """Mean over each pixel and its right, lower and lower right neighbour.

    TensorFlow leaves out neighbours beyond the border (stride 1), or counts them as zeros that the code adds itself
    (stride 2, odd sides only). Repeating the border is the former.
    """
    return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate" if stride == 1 else "constant"), 2, stride)
