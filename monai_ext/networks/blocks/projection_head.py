# SPDX-License-Identifier: Apache-2.0
"""What stands between a network and its contrastive loss, and is thrown away afterwards."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor


class ProjectionHead(nn.Module):
    """SimCLRv2's projection head: linear layers, each with a batch normalisation (https://arxiv.org/abs/2006.10029).

    No linear layer has a bias, and that of the last normalisation stays zero.

    Args:
        in_channels: of the features, and of all layers but the last.
        out_channels: of the projection; 128 is published.
        num_layers: 3 is published.

    Shape:
        (B, in_channels) -> (B, out_channels)

    Raises:
        ValueError: fewer than one layer.

    Example:
        >>> sum(weight.numel() for weight in ProjectionHead(4096).parameters())
        34095360
    """

    def __init__(self, in_channels: int, out_channels: int = 128, num_layers: int = 3) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}.")
        self.out_channels = out_channels
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers += [nn.Linear(in_channels, in_channels, bias=False), nn.BatchNorm1d(in_channels), nn.ReLU()]
        last = nn.BatchNorm1d(out_channels)
        last.bias.requires_grad_(False)
        self.layers = nn.Sequential(*layers, nn.Linear(in_channels, out_channels, bias=False), last)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)
