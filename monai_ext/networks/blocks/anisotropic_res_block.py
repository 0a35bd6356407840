# SPDX-License-Identifier: Apache-2.0
"""Residual block whose kernel and stride may differ from axis to axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor

from monai_ext.networks.layers.reach import Reach


class AnisotropicResBlock(nn.Module):
    """Two convolutions with normalisation and a shortcut, for voxels that are not cubes.

    The basic block of a ResNet (He et al. 2016, https://arxiv.org/abs/1512.03385). The first convolution has the
    stride; where stride or channels change, the shortcut is a convolution of size 1 with its own normalisation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of both convolutions along each axis, odd; its length decides between 2-D and 3-D.
        stride: along each axis.
        norm: name (and arguments) of MONAI's normalisation layer.

    Shape:
        (B, in_channels, ...) -> (B, out_channels, ...), each side divided by its stride and rounded up.

    Example:
        >>> import torch
        >>> block = AnisotropicResBlock(4, 8, kernel_size=(1, 3, 3), stride=(1, 2, 2))
        >>> block(torch.rand(1, 4, 6, 9, 8)).shape
        torch.Size([1, 8, 6, 5, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        point = [1] * len(kernel_size)
        self.conv1 = conv_norm(in_channels, out_channels, kernel_size, stride, norm)
        self.conv2 = conv_norm(out_channels, out_channels, kernel_size, point, norm)
        changes = in_channels != out_channels or any(step != 1 for step in stride)
        self.downsample = conv_norm(in_channels, out_channels, point, stride, norm) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.conv1(x), inplace=True)
        return F.relu(self.conv2(hidden) + self.downsample(x), inplace=True)

    def reach(self, before: Reach) -> Reach:
        """Return how far the cells see, given how far those of the input do; the shortcut sees less."""
        return before.through(self.conv1[0]).through(self.conv2[0])


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    norm: str | tuple = "batch",
) -> nn.Sequential:
    """Return a convolution ``conv`` without bias, padded by half its kernel, and its normalisation ``norm``.

    Example:
        >>> list(dict(conv_norm(1, 4, (3, 7, 7), (1, 1, 1)).named_children()))
        ['conv', 'norm']
    """
    dims = len(kernel_size)
    layers = nn.Sequential()
    padding = tuple(side // 2 for side in kernel_size)
    conv = Conv[Conv.CONV, dims](in_channels, out_channels, tuple(kernel_size), tuple(stride), padding, bias=False)
    layers.add_module("conv", conv)
    layers.add_module("norm", get_norm_layer(norm, spatial_dims=dims, channels=out_channels))
    return layers
