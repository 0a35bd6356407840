# SPDX-License-Identifier: Apache-2.0
"""Volumes as stacks of upright pictures, and back: the one place that knows how a slice is turned.

MONAI gives axes as (x, y[, z]), in RAS orientation after reading. A picture has rows and columns, first row on
top. Networks pretrained on photographs see a slice as a screen shows it: axial with the front of the body on
top, coronal and sagittal with the head on top. A picture read from a file is only transposed, so it is upright.
"""

from __future__ import annotations

from torch import Tensor

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def check_plane(plane: str) -> int:
    """Return the axis of a RAS volume (X, Y, Z) that the plane's slices are stacked along."""
    if plane not in PLANES:
        raise ValueError(f"plane must be one of {', '.join(PLANES)}, got {plane!r}.")
    return PLANES[plane]


def stack_view(image: Tensor, plane: str) -> Tensor:
    """View a volume (C, X, Y, Z) or picture (C, X, Y) as slices (N, C, H, W), N = 1 for a picture; copies nothing.

    The slices of a volume still have to be turned by `upright`.

    Example:
        >>> import torch
        >>> stack_view(torch.zeros(1, 5, 6, 7), "coronal").shape
        torch.Size([6, 1, 7, 5])
    """
    if image.ndim == 3:
        return image.transpose(-1, -2)[None]
    return image.movedim(check_plane(plane) + 1, 0).transpose(-1, -2)


def upright(slices: Tensor, is_volume: bool) -> Tensor:
    """Turn slices (..., H, W) of a RAS volume as a screen shows them; pictures stay. It is its own inverse."""
    return slices.flip(-1, -2) if is_volume else slices


def context_indices(index: int, count: int, slice_context: int) -> list[int]:
    """Return the indices of a slice and its neighbours on both sides, the border slices repeated.

    Example:
        >>> context_indices(0, count=5, slice_context=2)
        [0, 0, 0, 1, 2]
    """
    return [min(max(index + offset, 0), count - 1) for offset in range(-slice_context, slice_context + 1)]
