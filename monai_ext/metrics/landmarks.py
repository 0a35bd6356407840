# SPDX-License-Identifier: Apache-2.0
"""How far found places are from the true ones, point by point."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ext.errors import InputError

# in the order of RAS coordinates; published tables call them x, y and z
AXES = ("right_left", "anterior_posterior", "superior_inferior")


def landmark_errors(found: Tensor, true: Tensor) -> Tensor:
    """Return the distances (N,) in mm between found and true places (N, axes), in double precision.

    Raises:
        InputError: a place is not finite. (A point whose truth is unknown is left out before.)
        ValueError: shapes that differ.

    Example:
        >>> landmark_errors(torch.tensor([[0.0, 3.0, 4.0]]), torch.zeros(1, 3)).tolist()
        [5.0]
    """
    return torch.linalg.vector_norm(per_axis(found, true), dim=1)


def per_axis(found: Tensor, true: Tensor) -> Tensor:
    """Return the absolute differences (N, axes) in mm; for RAS mm the axes are those of `AXES`.

    Raises:
        InputError: a place is not finite.
        ValueError: shapes that differ.

    Example:
        >>> per_axis(torch.tensor([[0.0, -3.0, 4.0]]), torch.zeros(1, 3)).tolist()
        [[0.0, 3.0, 4.0]]
    """
    if found.shape != true.shape or found.ndim != 2:
        raise ValueError(f"found and true must be (N, axes) both, got {tuple(found.shape)} and {tuple(true.shape)}.")
    for name, places in (("found", found), ("true", true)):
        wrong = (~places.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        if wrong:
            raise InputError(f"the {name} places of {len(wrong)} of {len(places)} points are not finite: {wrong[:5]}.")
    return (found.double() - true.double()).abs()


def cpm(errors: Tensor, limit: float | Tensor) -> float | None:
    """Return the share of points within a limit, which counts as within (CPM, correctly placed matches).

    With 10 it is CPM@10mm; with each lesion's radius it is CPM@Radius by its definition.

    Args:
        errors: (N,) in mm.
        limit: in mm, of all points, or (N,) of each; points whose limit is NaN are left out.

    Returns:
        The share, None where no point is left.

    Raises:
        InputError: an error is not finite.

    Example:
        >>> cpm(torch.tensor([2.0, 10.0, 10.1, 5.0]), 10.0)
        0.75
        >>> cpm(torch.tensor([2.0, 10.0]), torch.tensor([3.0, torch.nan]))
        1.0
    """
    if not errors.isfinite().all():
        raise InputError(f"errors must be finite, got {errors[~errors.isfinite()].tolist()[:5]}.")
    limits = torch.as_tensor(limit, dtype=torch.float64, device=errors.device).expand(errors.shape)
    known = ~limits.isnan()
    return float((errors <= limits)[known].double().mean()) if known.any() else None


def hit_in_box(found: Tensor, boxes: Tensor) -> Tensor:
    """Say which found places (N, axes) lie in their target's box, its faces included.

    That is how published results of lesion tracking count CPM@Radius: for a round lesion the box is larger than
    the ball of its radius, so the share is at least as high.

    Args:
        found: in mm.
        boxes: (N, 2, axes), two opposite corners in mm, in any order. A box that is not finite is not known, and
            nothing lies in it.

    Returns:
        (N,) truth values.

    Raises:
        InputError: a found place is not finite.
        ValueError: shapes that do not fit.

    Example:
        >>> hit_in_box(torch.tensor([[1.0, 1.0], [3.0, 1.0]]), torch.tensor([[[0.0, 2.0], [2.0, 0.0]]] * 2)).tolist()
        [True, False]
    """
    if found.ndim != 2 or boxes.shape != (len(found), 2, found.shape[1]):
        raise ValueError(
            f"boxes must be (N, 2, axes) for places (N, axes), got {tuple(boxes.shape)} for {tuple(found.shape)}."
        )
    if not found.isfinite().all():
        raise InputError(f"found places must be finite, got {found[~found.isfinite().all(dim=1)].tolist()[:5]}.")
    places, corners = found.double(), boxes.to(found.device, torch.float64)
    inside = (corners.amin(dim=1) <= places) & (places <= corners.amax(dim=1))
    return inside.all(dim=1) & corners.isfinite().all(dim=2).all(dim=1)
