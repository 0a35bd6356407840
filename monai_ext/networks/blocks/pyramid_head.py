# SPDX-License-Identifier: Apache-2.0
"""Unit vectors for each cell of the finest of some feature maps, the coarser ones added from the top down."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor

from monai_ext.networks.layers.reach import Reach


class PyramidHead(nn.Module):
    """A feature pyramid that keeps its finest level only, ended by a 3 x 3 (x 3) convolution and unit length.

    Feature pyramids are Lin et al. 2017 (https://arxiv.org/abs/1612.03144); each anatomical embedding is such a head
    (Yan et al. 2022, https://arxiv.org/abs/2012.02383). With a single level there is nothing to add.

    ::

        features[2] ─ lateral ─┐ up
        features[1] ─ lateral ─+─┐ up
        features[0] ─ lateral ───+─ 3x3x3 ─ / length ─ embedding

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of each map, the finest first.
        embedding_dim: channels of the embedding.
        lateral_kernel: side of the lateral convolutions, 1 or 3; None adds the maps as they are.

    Shape:
        maps (B, in_channels[i], ...) of falling size -> (B, embedding_dim, ...) of the first one's size; float32
        whatever autocast says, since rounding would spoil the length.

    Raises:
        ValueError: another kernel, or no lateral convolutions although channels differ.

    Example:
        >>> head = PyramidHead(spatial_dims=3, in_channels=[4, 6], embedding_dim=8)
        >>> embedding = head([torch.rand(1, 4, 4, 6, 6), torch.rand(1, 6, 2, 3, 3)])
        >>> embedding.shape, bool(torch.allclose(embedding.norm(dim=1), torch.ones(())))
        (torch.Size([1, 8, 4, 6, 6]), True)
    """

    def __init__(
        self, spatial_dims: int, in_channels: Sequence[int], embedding_dim: int, lateral_kernel: int | None = 1
    ) -> None:
        super().__init__()
        if lateral_kernel not in (1, 3, None):
            raise ValueError(f"lateral_kernel must be 1, 3 or None, got {lateral_kernel}.")
        if lateral_kernel is None and any(channels != embedding_dim for channels in in_channels):
            raise ValueError(
                f"without lateral convolutions all maps must have embedding_dim = {embedding_dim} channels, got "
                f"{list(in_channels)}; set stage_channels, or lateral_kernel to 1."
            )
        conv = Conv[Conv.CONV, spatial_dims]
        self.laterals = nn.ModuleList(
            nn.Identity()
            if lateral_kernel is None
            else conv(channels, embedding_dim, lateral_kernel, padding=lateral_kernel // 2)
            for channels in in_channels
        )
        self.output = conv(embedding_dim, embedding_dim, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [lateral(level) for lateral, level in zip(self.laterals, features, strict=True)]
        summed = maps[-1]
        for finer in reversed(maps[:-1]):
            summed = finer + F.interpolate(summed, size=finer.shape[2:], mode="nearest")
        embedding = self.output(summed)
        with torch.autocast(embedding.device.type, enabled=False):
            return F.normalize(embedding if embedding.dtype == torch.float64 else embedding.float(), dim=1)

    def reach(self, features: Sequence[Reach]) -> Reach:
        """Return how far the embedding's cells see, given how far those of each map do."""
        maps = [level.through(lateral) for lateral, level in zip(self.laterals, features, strict=True)]
        summed = maps[-1]
        for finer in reversed(maps[:-1]):
            summed = finer | summed.resized(finer)
        return summed.through(self.output)
