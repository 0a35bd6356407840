# SPDX-License-Identifier: Apache-2.0
"""Any 2-D network made to see every picture at one size."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.layers.letterbox import Letterbox


class Letterboxed(nn.Module):
    """Brings the longer side of a picture to a set number of pixels, pads, and brings the logits back.

    So a network that knows sizes from its training alone, such as a U-Net, meets scans of another pixel size fairly.

    Args:
        network: from pictures (B, C, S, S) to logits (B, K, S, S).
        image_size: S.

    Shape:
        (B, C, H, W) -> (B, K, H, W)

    Example:
        >>> import torch
        >>> Letterboxed(nn.Conv2d(1, 2, 1), image_size=32)(torch.rand(3, 1, 20, 50)).shape
        torch.Size([3, 2, 20, 50])
    """

    def __init__(self, network: nn.Module, image_size: int) -> None:
        super().__init__()
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}.")
        self.network = network
        self.image_size = image_size

    def forward(self, image: Tensor) -> Tensor:
        frame = Letterbox.of(image, self.image_size)
        logits = self.network(frame.pad(frame.fit(image)))[..., : frame.inner_height, : frame.inner_width]
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
