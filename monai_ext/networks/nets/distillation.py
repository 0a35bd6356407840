# SPDX-License-Identifier: Apache-2.0
"""A student that learns to say what a frozen teacher says."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.nets.expert_student import ExpertStudent


class Distillation(nn.Module):
    """Student with a head, and the teacher whose features it learns, for SAMora's image and patch level.

    The teacher is frozen and stays in ``eval()``, and runs in inference mode. Features that were computed before may
    be given instead. Teacher and student see the same image; each normalises it as it was trained.

    Args:
        student: the encoder with its expert.
        head: from its embedding (B, 256, g, g) to the form of the teacher's features.
        teacher: from the image to features; None if they are always given.
        teacher_size: side of the square that the teacher sees; None for the image as it is.

    Attributes:
        taught_by: where the teacher's weights come from, in words; empty if nothing is known.

    Shape:
        image (B, in_channels, S, S) -> a list of what student and teacher say, of one shape, as `ReconstructionLoss`
        takes it.

    Raises:
        ValueError: neither a teacher nor features.

    Example:
        >>> from monai_ext.networks.blocks.pooled_head import PooledHead
        >>> from monai_ext.networks.nets.resnet_sk import build_resnet_sk
        >>> student, teacher = ExpertStudent("image", sam_type="vit_tiny", image_size=64), build_resnet_sk("small")
        >>> network = Distillation(student, PooledHead(256, teacher.out_channels), teacher)
        >>> [x.shape for x in network(torch.rand(2, 1, 64, 64))]
        [torch.Size([2, 512]), torch.Size([2, 512])]
    """

    def __init__(
        self,
        student: ExpertStudent,
        head: nn.Module,
        teacher: nn.Module | None = None,
        teacher_size: int | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.head = head
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.teacher_size = teacher_size
        self.taught_by = ""

    def train(self, mode: bool = True) -> Distillation:
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, image: Tensor, features: Tensor | None = None) -> list[Tensor]:
        """Compare student and teacher.

        Args:
            image: (B, in_channels, S, S).
            features: what `teach` gave for it before; None asks the teacher.
        """
        return [self.head(self.student(image)), self.teach(image) if features is None else features]

    def teach(self, image: Tensor) -> Tensor:
        """Return the teacher's features, without gradients.

        Raises:
            ValueError: there is no teacher.
        """
        if self.teacher is None:
            raise ValueError("there is no teacher; give its features, or build the network with one.")
        with torch.inference_mode():
            if self.teacher_size is not None:
                image = _resized(image, self.teacher_size)
            features = self.teacher(image)
        return features.clone()  # a tensor made in inference mode cannot be part of a loss


def _resized(image: Tensor, side: int) -> Tensor:
    if tuple(image.shape[-2:]) == (side, side):
        return image
    return F.interpolate(image, (side, side), mode="bilinear", antialias=True)
