# SPDX-License-Identifier: Apache-2.0
"""The two conventions for a patient's millimetres, and the way from one to the other."""

from __future__ import annotations

from torch import Tensor

from monai_ext.errors import InputError

SPACES = ("RAS", "LPS")


def to_space(points: Tensor, space: str) -> Tensor:
    """Turn points (..., axes) from RAS mm to a space, or from that space to RAS mm: it is the same step.

    RAS (NIfTI, nibabel, FreeSurfer) counts to the right, to the front and up; LPS (DICOM, ITK) to the left, to the
    back and up.

    Args:
        points: (..., 2) or (..., 3) in mm.
        space: ``RAS`` or ``LPS``.

    Raises:
        InputError: another space.

    Example:
        >>> import torch
        >>> to_space(torch.tensor([1.0, 2.0, 3.0]), "LPS")
        tensor([-1., -2.,  3.])
    """
    if check_space(space) == "RAS":
        return points
    return points * points.new_tensor([-1.0, -1.0, 1.0][: points.shape[-1]]) + 0.0  # no -0.0


def check_space(space: str) -> str:
    """Return ``space`` in capitals.

    Raises:
        InputError: it is neither RAS nor LPS.
    """
    if not isinstance(space, str) or space.upper() not in SPACES:
        raise InputError(f"space must be one of {', '.join(SPACES)}, got {space!r}.")
    return space.upper()
