# SPDX-License-Identifier: Apache-2.0
"""An image or labels brought to another grid through a map of the world."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_ext.registration._sampling import sample_linear, sample_nearest
from monai_ext.registration.world_grid import WorldGrid

MODES = ("linear", "nearest")


def resample(
    image: Tensor,
    grid: WorldGrid,
    transform: Callable[[Tensor], Tensor],
    reference: WorldGrid,
    mode: str = "linear",
    padding_value: float = 0.0,
) -> Tensor:
    """Give each voxel of the reference the value of the image where the map leads (pull-back).

    Equal to ITK's ``ResampleImageFilter``, which gives what lies beyond the image's voxels a default value.

    Args:
        image: (C, *grid.shape).
        grid: where the image lies.
        transform: maps points (N, 3) of the reference to points of the image, both RAS mm: *fixed to moving*, where
            the moving image is brought to the fixed grid.
        reference: the grid of the result.
        mode: ``linear`` for intensities, ``nearest`` for labels.
        padding_value: what lies outside of the image, ITK's default pixel value.

    Returns:
        (C, *reference.shape), float32 if linear, else of the image's type.

    Raises:
        ValueError: an image of another shape than its grid, or an unknown mode.

    Example:
        >>> grid = WorldGrid((1, 1, 3), torch.eye(4))
        >>> resample(torch.tensor([[[[1.0, 2.0, 4.0]]]]), grid, lambda x: x + torch.tensor([0, 0, 0.5]), grid).tolist()
        [[[[1.5, 3.0, 0.0]]]]
    """
    if image.shape[1:] != grid.shape:
        raise ValueError(f"image must be (C, {', '.join(map(str, grid.shape))}), got {tuple(image.shape)}.")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}.")
    values = image.detach().as_subclass(Tensor)
    values = values.double() if mode == "linear" else values
    result = values.new_empty((len(image), *reference.shape), dtype=torch.float32 if mode == "linear" else image.dtype)
    for slab in reference.slabs():
        voxels = grid.to_voxels(transform(reference.points(slab)).to(image.device))
        found = (sample_linear if mode == "linear" else sample_nearest)(values, voxels)
        found = torch.where(grid.contains(voxels), found, found.new_tensor(padding_value))
        result[:, slab] = found.reshape(len(image), -1, *reference.shape[1:]).to(result.dtype)
    return result
