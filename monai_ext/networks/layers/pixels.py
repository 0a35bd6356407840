# SPDX-License-Identifier: Apache-2.0
"""What pretrained encoders want of their pixels: three channels, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor


def build_stem(in_channels: int) -> nn.Conv2d | None:
    """Return a 1x1 convolution to three channels that starts as the mean of all; None for 1 and 3 channels.

    Raises:
        ValueError: there is no channel.

    Example:
        >>> build_stem(4)(torch.ones(1, 4, 1, 1)).flatten().tolist()
        [1.0, 1.0, 1.0]
    """
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, got {in_channels}.")
    if in_channels in (1, 3):
        return None
    stem = nn.Conv2d(in_channels, 3, kernel_size=1)
    nn.init.constant_(stem.weight, 1.0 / in_channels)
    nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
    return stem


def pixel_statistics(pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation as tensors (1, 3, 1, 1).

    Raises:
        ValueError: they are not three numbers each, or a deviation is not positive.
    """
    if len(pixel_mean) != 3 or len(pixel_std) != 3 or min(pixel_std) <= 0:
        raise ValueError(
            "pixel_mean and pixel_std must each be three numbers, the latter positive: the encoder sees three "
            f"channels whatever in_channels is; got {list(pixel_mean)} and {list(pixel_std)}."
        )
    mean, std = (
        torch.tensor(list(values), dtype=torch.float32).reshape(1, 3, 1, 1) for values in (pixel_mean, pixel_std)
    )
    return mean, std


def check_channels(image: Tensor, in_channels: int) -> None:
    """Refuse an image of another form than (B, in_channels, H, W).

    Raises:
        ValueError: naming the form.
    """
    if image.ndim != 4 or image.shape[1] != in_channels:
        raise ValueError(
            f"image must be (batch, {in_channels}, height, width), got {tuple(image.shape)}; "
            "set in_channels to the number of channels of your images."
        )


def three_channels(image: Tensor, stem: nn.Module | None) -> Tensor:
    """Bring an image (B, C, H, W) to (B, 3, H, W): by the stem, or a single channel three times."""
    if stem is not None:
        return stem(image)
    return image.expand(-1, 3, -1, -1)


def inside(inner: Tensor, pixels: Tensor) -> Tensor:
    """Return 1 on the first rows and columns ``inner`` (B, 2) of each image, 0 on the padding: (B, 1, H, W).

    Example:
        >>> inside(torch.tensor([[1, 2]]), torch.zeros(1, 3, 2, 3))
        tensor([[[[1., 1., 0.],
                  [0., 0., 0.]]]])
    """
    rows, columns = (torch.arange(size, device=pixels.device) for size in pixels.shape[-2:])
    sizes = inner.to(pixels.device)[:, :, None]
    within = (rows < sizes[:, 0])[:, :, None] & (columns < sizes[:, 1])[:, None, :]  # (B, H, W)
    return within[:, None].to(pixels.dtype)
