# SPDX-License-Identifier: Apache-2.0
"""What SAMora's image level is taught by: SimCLRv2's network, to one of its stages or through its projection."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from monai_ext.networks.blocks.projection_head import ProjectionHead
from monai_ext.networks.nets.resnet_sk import STAGES, ResNetSK, build_resnet_sk

FEATURES = ("pooled", "projection")


class SimCLRTeacher(nn.Module):
    """SimCLRv2's network as a teacher (Chen et al. 2020, https://arxiv.org/abs/2006.10029).

    Args:
        encoder: gives a vector for each image.
        head: projects it; None for the encoder's own vector.

    Attributes:
        out_channels: of what it says.

    Shape:
        image (B, in_channels, H, W), sides multiples of 4 -> (B, out_channels)

    Example:
        >>> import torch
        >>> build_simclr_teacher("small", teacher_feature="projection").eval()(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 128])
    """

    def __init__(self, encoder: ResNetSK, head: ProjectionHead | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.out_channels = encoder.out_channels if head is None else head.out_channels

    def forward(self, image: Tensor) -> Tensor:
        features = self.encoder(image)
        return features if self.head is None else self.head(features)


def build_simclr_teacher(
    teacher: str = "r50_2x_sk1", in_channels: int = 1, teacher_feature: str = "pooled", teacher_layer: int | None = None
) -> SimCLRTeacher:
    """Build one of SimCLRv2's networks as a teacher, random.

    Args:
        teacher: see `build_resnet_sk`.
        in_channels: see there.
        teacher_feature: ``pooled``, the mean over the image of a stage's map, or ``projection``, the 128 numbers that
            its contrastive loss compared.
        teacher_layer: the stage whose map is pooled, 1 to 4; None means the last, which the projection needs.

    Raises:
        ValueError: an argument that is none of the above.

    Example:
        >>> build_simclr_teacher("small", teacher_layer=2).out_channels
        128
    """
    if teacher_feature not in FEATURES:
        raise ValueError(f"teacher_feature must be one of {', '.join(FEATURES)}, got {teacher_feature!r}.")
    stage = STAGES if teacher_layer is None else teacher_layer
    encoder = build_resnet_sk(teacher, in_channels, feature_stage=stage)
    if teacher_feature == "pooled":
        return SimCLRTeacher(encoder)
    if stage != STAGES:
        raise ValueError(f"teacher_layer must be None or {STAGES} for the projection, got {teacher_layer}.")
    return SimCLRTeacher(encoder, ProjectionHead(encoder.out_channels))
