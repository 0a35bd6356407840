# SPDX-License-Identifier: Apache-2.0
"""How a displacement field changes volumes, and whether it folds space."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from monai_ext.jacobian import SMALLEST_DETERMINANT, field_determinant
from monai_ext.registration.displacement import WorldDisplacement


class Folding(NamedTuple):
    """How regular a field is.

    Attributes:
        percent: of the voxels, those with a Jacobian determinant of zero or less.
        sd_log_j: standard deviation of the logarithm of the determinant.
    """

    percent: float
    sd_log_j: float


def jacobian_determinant(field: WorldDisplacement) -> Tensor:
    """Return the determinant (*grid.shape) of the Jacobian of ``x -> x + d(x)`` in the world.

    Forward differences; the last voxel of an axis has those of the one before it. Neither the spacing nor the
    direction of the grid matters: 1 is a volume that stays as large as it is.

    Raises:
        ValueError: an axis of a single voxel, which has no differences.

    Example:
        >>> import torch
        >>> from monai_ext.registration.world_grid import WorldGrid
        >>> grid = WorldGrid((3, 3, 3), torch.diag(torch.tensor([-2.0, 1.0, 3.0, 1.0])))
        >>> stretched = WorldDisplacement.sampled(lambda x: x * torch.tensor([1.5, 1.0, 2.0]), grid)
        >>> jacobian_determinant(stretched).unique().tolist()
        [3.0]
    """
    return field_determinant(field.to_voxels())


def measure_folding(field: WorldDisplacement, mask: Tensor | None = None) -> Folding:
    """Count where the field folds inside a mask (bool, *grid.shape; None: everywhere).

    Raises:
        ValueError: a mask of another shape, or an empty one.
    """
    if mask is not None and (mask.shape != field.grid.shape or not mask.any()):
        raise ValueError(f"mask must be {field.grid.shape} and not empty, got {tuple(mask.shape)}.")
    determinant = jacobian_determinant(field)
    inside = determinant.flatten() if mask is None else determinant[mask.to(determinant.device)]
    logarithm = inside.clamp(min=SMALLEST_DETERMINANT).log()
    return Folding(100 * float((inside <= 0).double().mean()), float(logarithm.std(correction=0)))
