# SPDX-License-Identifier: Apache-2.0
"""Boxes around masks, with tensors of fixed shape only, so that they can be traced and exported."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Find the smallest box around each mask; one box, however many components there are.

    This is the self-prompt of SAM-SP (Zhou et al. 2024, https://arxiv.org/abs/2408.12364): the least and greatest
    column and row of the foreground, both inclusive.

    Args:
        masks: (..., H, W) bool.

    Returns:
        boxes (..., 4) float32 as xmin, ymin, xmax, ymax, and empty (...) bool. Boxes of empty masks hold the
        impossible W, H, -1, -1.

    Example:
        >>> mask = torch.zeros(1, 16, 32, dtype=torch.bool)
        >>> mask[0, 3:11, 5:21] = True
        >>> mask_boxes(mask)
        (tensor([[ 5.,  3., 20., 10.]]), tensor([False]))
    """
    left, right = _ends(masks.any(dim=-2))
    top, bottom = _ends(masks.any(dim=-1))
    return torch.stack([left, top, right, bottom], dim=-1), right < 0


def _ends(line: Tensor) -> tuple[Tensor, Tensor]:
    """First and last true place along the last axis; the length and -1 where there is none."""
    places = torch.arange(line.shape[-1], device=line.device, dtype=torch.float32)
    return (
        torch.where(line, places, line.shape[-1]).amin(dim=-1),
        torch.where(line, places, -1.0).amax(dim=-1),
    )
