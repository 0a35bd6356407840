# SPDX-License-Identifier: Apache-2.0
"""Weighted least squares for three models of a map, for one set of pairs or a batch of sets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Fit = Callable[[Tensor, Tensor, Tensor], Tensor]


def affine(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Fit 12 numbers to pairs (..., N, 3) with weights (N,): (..., 4, 4); NaN where the points do not span space."""
    x, y, centre_x, centre_y = _centred(source, target, weights)
    scatter = (x * weights[:, None]).transpose(-1, -2) @ x
    mixed = (x * weights[:, None]).transpose(-1, -2) @ y
    solution, info = torch.linalg.solve_ex(scatter, mixed)
    linear = torch.where((info == 0)[..., None, None], solution, torch.nan).transpose(-1, -2)
    return _matrix(linear, centre_x, centre_y)


def rigid(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Fit a rotation and a translation (Kabsch)."""
    x, y, centre_x, centre_y = _centred(source, target, weights)
    return _matrix(_rotation(x, y, weights)[0], centre_x, centre_y)


def similarity(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Fit a rotation, a translation and one scale (Umeyama)."""
    x, y, centre_x, centre_y = _centred(source, target, weights)
    rotation, covariance = _rotation(x, y, weights)
    scale = covariance / (x.square().sum(dim=-1) * weights).sum(dim=-1)
    return _matrix(scale[..., None, None] * rotation, centre_x, centre_y)


ESTIMATORS = ("huber", "ransac", "lstsq")
FITS: dict[str, Fit] = {"affine": affine, "similarity": similarity, "rigid": rigid}
FREE_DIRECTIONS = {"affine": 3, "similarity": 2, "rigid": 2}  # in which the points must spread


def check_names(estimator: str, model: str, min_points: int) -> None:
    """Raise ValueError for an unknown estimator or model, or fewer points than the model has directions to fix."""
    for name, value, known in (("estimator", estimator, ESTIMATORS), ("model", model, tuple(FITS))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    if min_points < FREE_DIRECTIONS[model] + 1:
        raise ValueError(f"min_points must be at least {FREE_DIRECTIONS[model] + 1} for {model}, got {min_points}.")


def _centred(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    share = (weights / weights.sum())[:, None]
    centre_x, centre_y = ((points * share).sum(dim=-2, keepdim=True) for points in (source, target))
    return source - centre_x, target - centre_y, centre_x, centre_y


def _rotation(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotation that turns x to y best, never a reflection, and the sum of singular values that it keeps."""
    u, values, v = torch.linalg.svd((y * weights[:, None]).transpose(-1, -2) @ x)
    signs = torch.ones_like(values)
    signs[..., 2] = torch.linalg.det(u @ v).sign()
    return (u * signs[..., None, :]) @ v, (values * signs).sum(dim=-1)


def _matrix(linear: Tensor, centre_x: Tensor, centre_y: Tensor) -> Tensor:
    matrix = torch.zeros(*linear.shape[:-2], 4, 4, dtype=linear.dtype, device=linear.device)
    matrix[..., :3, :3] = linear
    matrix[..., :3, 3] = (centre_y - centre_x @ linear.transpose(-1, -2))[..., 0, :]
    matrix[..., 3, 3] = 1
    return matrix
