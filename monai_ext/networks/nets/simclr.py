# SPDX-License-Identifier: Apache-2.0
"""Two views of each image, projected for the contrastive loss."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.networks.blocks.projection_head import ProjectionHead
from monai_ext.networks.nets.resnet_sk import ResNetSK


class SimCLR(nn.Module):
    """A network and its projection head, which learn that two views show the same (https://arxiv.org/abs/2002.05709).

    A teacher of projections instead of features is ``nn.Sequential(network.encoder, network.head)``.

    Args:
        encoder: gives a vector for each image.
        head: projects it; None for the one of SimCLRv2.

    Shape:
        two views as channels, those of the first before those of the second: (B, 2 * in_channels, H, W) -> their
        projections, a list of two (B, 128), as `NTXentLoss` takes it.

    Raises:
        ValueError: an image of another number of channels.

    Example:
        >>> from monai_ext.networks.nets.resnet_sk import build_resnet_sk
        >>> first, second = SimCLR(build_resnet_sk("small"))(torch.rand(3, 2, 32, 32))
        >>> first.shape
        torch.Size([3, 128])
    """

    def __init__(self, encoder: ResNetSK, head: ProjectionHead | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = ProjectionHead(encoder.out_channels) if head is None else head

    def forward(self, views: Tensor) -> list[Tensor]:
        if views.ndim != 4 or views.shape[1] != 2 * self.encoder.in_channels:
            raise ValueError(
                f"views must be (batch, {2 * self.encoder.in_channels}, height, width), the channels of one after "
                f"those of the other, got {tuple(views.shape)}."
            )
        # one batch of both: they share the statistics of the batch normalisation
        return list(self.project(torch.cat(views.chunk(2, dim=1))).chunk(2))

    def project(self, image: Tensor) -> Tensor:
        """Project single images: (B, in_channels, H, W) -> (B, 128)."""
        return self.head(self.encoder(image))
