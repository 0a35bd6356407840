# SPDX-License-Identifier: Apache-2.0
"""A student and the head that its level of pre-training needs."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from monai_ext.networks.nets.expert_student import ExpertStudent


class HeadedStudent(nn.Module):
    """Frozen encoder with one expert, and a head; the two train together, and only the expert is kept.

    With a `DenoisingDecoder` this is the whole network of SAMora's pixel level.

    Args:
        student: the encoder with its expert.
        head: from its embedding (B, 256, g, g) to what is to be learned.

    Shape:
        image (B, in_channels, S, S) -> what the head gives

    Example:
        >>> import torch
        >>> from monai_ext.networks.blocks.denoising_decoder import DenoisingDecoder
        >>> student = ExpertStudent("pixel", sam_type="vit_tiny", image_size=64)
        >>> HeadedStudent(student, DenoisingDecoder())(torch.rand(1, 1, 64, 64)).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(self, student: ExpertStudent, head: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.student(image))
