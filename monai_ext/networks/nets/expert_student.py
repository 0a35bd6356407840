# SPDX-License-Identifier: Apache-2.0
"""What a teacher is distilled into: a frozen Segment Anything encoder with one low-rank expert that trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor

from monai_ext.networks.layers.pixels import build_stem, check_channels, pixel_statistics, three_channels
from monai_ext.networks.nets.experts_encoder import ExpertsEncoder
from monai_ext.networks.nets.sam import build_published_encoder


class ExpertStudent(nn.Module):
    """Frozen encoder of Segment Anything with one trainable expert, which sees pixels as the later network will.

    Of two students with the same seed, and of a network that builds its encoder first, the random frozen weights are
    the same at any ``image_size``; so experts fit together even where there are no published weights (``vit_tiny``).

    Args:
        level: name of the expert.
        in_channels: channels of the image. 1 is repeated to 3; other numbers than 1 and 3 are averaged.
        sam_type: ``vit_b``, ``vit_l``, ``vit_h``, or ``vit_tiny`` (ours, without published weights).
        image_size: side of the images, a multiple of 16. The expert can be used at another size.
        pixel_mean: mean of the three channels that the encoder sees, in the unit of the image's values.
        pixel_std: their standard deviation. Both must be those of the network that the expert is for.
        lora_rank: rank of the expert's updates of query and value.
        lora_alpha: they are scaled by ``lora_alpha / lora_rank``; None means a scale of 1.
        lora_blocks: indices of the blocks that get them; None means all.
        use_checkpoint: trade time for memory in training: recompute encoder blocks in the backward pass.

    Shape:
        image (B, in_channels, S, S) with S = image_size -> embedding (B, 256, S / 16, S / 16)

    Raises:
        ValueError: an argument that is none of the above, or an image of another shape.

    Example:
        >>> import torch
        >>> student = ExpertStudent("pixel", sam_type="vit_tiny", image_size=64)
        >>> student(torch.rand(2, 1, 64, 64)).shape
        torch.Size([2, 256, 4, 4])
        >>> {name.split(".")[-2] for name, weight in student.named_parameters() if weight.requires_grad}
        {'pixel'}
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        level: str,
        in_channels: int = 1,
        sam_type: str = "vit_b",
        image_size: int = 224,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
        lora_rank: int = 4,
        lora_alpha: float | None = None,
        lora_blocks: Sequence[int] | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.level = level
        self.in_channels = in_channels
        published = build_published_encoder(sam_type, image_size)
        self.image_encoder = ExpertsEncoder(published, (level,), lora_rank, lora_alpha, lora_blocks, use_checkpoint)
        self.image_encoder.train_only(level)
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.stem = build_stem(in_channels)
        if self.stem is not None:
            self.stem.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        check_channels(image, self.in_channels)
        pixels = three_channels(image, self.stem)
        return self.image_encoder((pixels - self.pixel_mean) / self.pixel_std)
