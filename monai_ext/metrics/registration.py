# SPDX-License-Identifier: Apache-2.0
"""How well a displacement brings landmarks and labels together, and whether it folds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.field_warp import FieldWarp
from monai_ext.jacobian import SMALLEST_DETERMINANT, field_determinant


def target_registration_error(ddf: Tensor, affine: Tensor, fixed_points: Tensor, moving_points: Tensor) -> Tensor:
    """Distances in mm between where landmarks of the fixed image are taken and where they are in the moving one.

    Displacements between voxels are interpolated; beyond the edge the outermost ones continue.

    Args:
        ddf: (axes, *spatial), displacement in voxels from the fixed to the moving image, both on one grid.
        affine: (axes + 1, axes + 1), from voxels of that grid, in the order of the tensor's axes, to mm.
        fixed_points: (P, axes), landmarks of the fixed image in mm.
        moving_points: (P, axes), the same landmarks in the moving image in mm.

    Returns:
        (P,), float64.

    Raises:
        InputError: the points are not as many, or not of the field's number of axes.
        ValueError: the displacement or the affine have another form.

    Example:
        >>> ddf = torch.ones(2, 8, 8)
        >>> points = torch.tensor([[4.0, 6.0]])
        >>> target_registration_error(ddf, torch.diag(torch.tensor([2.0, 2.0, 1.0])), points, points).tolist()
        [2.8284271247461903]
    """
    axes = _axes_of(ddf)
    if affine.shape != (axes + 1, axes + 1):
        raise ValueError(f"affine must be {(axes + 1, axes + 1)}, got {tuple(affine.shape)}.")
    if fixed_points.ndim != 2 or fixed_points.shape[1] != axes or fixed_points.shape != moving_points.shape:
        raise InputError(
            f"landmarks must be as many in both images, each of {axes} numbers, got {tuple(fixed_points.shape)} in the "
            f"fixed and {tuple(moving_points.shape)} in the moving one."
        )
    ddf = ddf.double()
    affine, fixed, moving = (x.to(ddf.device, torch.float64) for x in (affine, fixed_points, moving_points))
    voxels = (fixed - affine[:-1, -1]) @ torch.linalg.inv(affine[:-1, :-1]).T
    taken = voxels + _read(ddf, voxels)
    return (taken @ affine[:-1, :-1].T + affine[:-1, -1] - moving).norm(dim=1)


def warped_dice(ddf: Tensor, fixed_label: Tensor, moving_label: Tensor) -> dict[int, float]:
    """Dice of each label that both images have, with the moving labels read at the nearest voxel.

    Outside of the moving image there is background.

    Args:
        ddf: (axes, *spatial), displacement in voxels from the fixed to the moving image, both on one grid.
        fixed_label: (*spatial) or (1, *spatial), whole numbers, 0 for background.
        moving_label: alike.

    Returns:
        Dice by label, in ascending order; empty if no label is in both images.

    Raises:
        InputError: labels and displacement are not of one size.

    Example:
        >>> label = torch.zeros(6, 6)
        >>> label[2:4, 2:4] = 3
        >>> ddf = torch.zeros(2, 6, 6)
        >>> ddf[0] = 1
        >>> warped_dice(ddf, label, label)
        {3: 0.5}
    """
    axes, sides = _axes_of(ddf), ddf.shape[1:]
    fixed, moving = (x[0] if x.ndim == axes + 1 and len(x) == 1 else x for x in (fixed_label, moving_label))
    for name, label in (("fixed", fixed), ("moving", moving)):
        if label.shape != sides:
            raise InputError(
                f"the {name} label map must have the displacement's size {tuple(sides)}, got {tuple(label.shape)}; "
                "bring both to one grid."
            )
    fixed, moving = (x.to(ddf.device, torch.float64) for x in (fixed, moving))
    warped = FieldWarp(mode="nearest", padding_mode="zeros")(moving[None, None], ddf[None].double())[0, 0]
    shared = sorted(set(fixed.unique().tolist()) & set(moving.unique().tolist()) - {0.0})
    scores = {}
    for label in shared:
        ours, theirs = warped == label, fixed == label
        scores[int(label)] = 2 * int((ours & theirs).sum()) / int(ours.sum() + theirs.sum())
    return scores


def jacobian_determinant(ddf: Tensor) -> Tensor:
    """Volume that each voxel's surroundings take after displacement, by forward differences.

    Args:
        ddf: (axes, *spatial), displacement in voxels.

    Returns:
        (*spatial), float64, one less along each axis: the last voxels have no successors.

    Raises:
        ValueError: the displacement has another form, or an axis of one voxel.

    Example:
        >>> jacobian_determinant(torch.zeros(3, 4, 5, 6)).unique().tolist()
        [1.0]
    """
    return field_determinant(ddf)[(slice(-1),) * (ddf.ndim - 1)]


def folding_percentage(ddf: Tensor, mask: Tensor | None = None) -> float:
    """Percentage of voxels where the displacement folds: its Jacobian determinant is at most 0.

    Args:
        ddf: (axes, *spatial), displacement in voxels.
        mask: (*spatial) or (1, *spatial), of the fixed image; all voxels without it. The last voxel of an axis has no
            forward difference and never counts.

    Returns:
        0 to 100.

    Raises:
        InputError: the mask has another size, or holds no voxel.

    Example:
        >>> ddf = torch.zeros(2, 5, 5)
        >>> ddf[0, 2] = 1
        >>> folding_percentage(ddf)
        25.0
    """
    return 100 * float((_determinants(ddf, mask) <= 0).double().mean())


def sd_log_jacobian(ddf: Tensor, mask: Tensor | None = None) -> float:
    """Standard deviation of the logarithm of the Jacobian determinant: 0 where volume changes alike everywhere.

    Determinants below 1e-9, folds above all, count as 1e-9.

    Args:
        ddf: (axes, *spatial), displacement in voxels.
        mask: as of `folding_percentage`.

    Raises:
        InputError: the mask has another size, or holds no voxel.

    Example:
        >>> sd_log_jacobian(torch.zeros(2, 4, 4))
        0.0
    """
    return float(_determinants(ddf, mask).clamp(min=SMALLEST_DETERMINANT).log().std(correction=0))


def _determinants(ddf: Tensor, mask: Tensor | None) -> Tensor:
    determinants = jacobian_determinant(ddf)
    if mask is None:
        return determinants.flatten()
    if mask.ndim == ddf.ndim and len(mask) == 1:
        mask = mask[0]
    if mask.shape != ddf.shape[1:]:
        raise InputError(f"the mask must have the displacement's size {tuple(ddf.shape[1:])}, got {tuple(mask.shape)}.")
    inside = mask[(slice(-1),) * mask.ndim].to(ddf.device) > 0.5
    if not inside.any():
        raise InputError("the mask holds no voxel in which to measure folding; check the fixed image's mask.")
    return determinants[inside]


def _read(ddf: Tensor, voxels: Tensor) -> Tensor:
    """Displacements (P, axes) at voxel positions (P, axes)."""
    axes = len(ddf)
    last = voxels.new_tensor([max(side - 1, 1) for side in ddf.shape[1:]])
    places = (2 * voxels / last - 1).flip(1).reshape(1, *[1] * (axes - 1), -1, axes)
    return F.grid_sample(ddf[None], places, padding_mode="border", align_corners=True).reshape(axes, -1).T


def _axes_of(ddf: Tensor) -> int:
    if len(ddf) not in (2, 3) or ddf.ndim != len(ddf) + 1:
        raise ValueError(f"the displacement must be (axes, *spatial) with 2 or 3 axes, got {tuple(ddf.shape)}.")
    return len(ddf)
