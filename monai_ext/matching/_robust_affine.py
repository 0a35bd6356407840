# SPDX-License-Identifier: Apache-2.0
"""Affine maps fitted to matches some of which are wrong."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_ANCHORS = 4
HUBER = 1.345  # standard deviations beyond which a residual counts less (Huber 1981)
MAD_OF_NORMAL = 0.6745
SMALLEST_SCALE = 1e-3  # mm; keeps the weights of exact fits from leaving a singular system
ROUNDS = 30


def robust_map(shift: Tensor, target: Tensor, keep: Tensor, smallest_spread: float) -> tuple[Tensor, Tensor]:
    """Fit ``target = A shift + t`` for each point by Huber's regression, one axis at a time, and return t.

    With ``shift`` the anchors' places relative to the point, t is where the map takes the point itself: the mean of
    ``target - A shift`` weighted as in the fit. (The published code takes the plain mean, which one wrong anchor can
    move by as much as it likes.)

    Args:
        shift: (N, K, axes) mm.
        target: (N, K, axes) mm.
        keep: (N, K) which anchors count.
        smallest_spread: mm; the anchors' standard deviation along any direction must be at least that.

    Returns:
        t (N, axes), and which of them rest on anchors that span all directions (N,).
    """
    count = keep.sum(dim=1, keepdim=True).clamp(min=1)
    mask = keep.to(shift.dtype)
    centred = (shift - (shift * mask[..., None]).sum(dim=1, keepdim=True) / count[..., None]) * mask[..., None]
    scatter = centred.transpose(1, 2) @ centred / count[..., None]
    spans = torch.linalg.eigvalsh(scatter)[:, 0] >= smallest_spread**2
    design = torch.cat([shift, torch.ones_like(shift[..., :1])], dim=2)  # (N, K, axes + 1)
    weights = mask[..., None].expand_as(target)
    for _ in range(ROUNDS):
        solution = _solve(design, target, weights, spans)
        residual = (target - design @ solution).abs()
        scale = _median(residual, keep) / MAD_OF_NORMAL
        limit = HUBER * scale.clamp(min=SMALLEST_SCALE)[:, None]
        weights = mask[..., None] * (limit / residual.clamp(min=1e-12)).clamp(max=1)
    return solution[:, -1], spans


def _solve(design: Tensor, target: Tensor, weights: Tensor, spans: Tensor) -> Tensor:
    """Weighted least squares, (N, axes + 1, axes): one column for each axis of the target."""
    normal = torch.einsum("nki,nka,nkj->naij", design, weights, design)
    right = torch.einsum("nki,nka,nka->nai", design, weights, target)
    eye = torch.eye(design.shape[2], dtype=design.dtype, device=design.device)
    normal = torch.where(spans[:, None, None, None], normal, eye)  # no answer is used there, but it must not fail
    return torch.linalg.solve(normal, right[..., None])[..., 0].transpose(1, 2)


def _median(values: Tensor, keep: Tensor) -> Tensor:
    """Median (N, axes) over those kept of (N, K, axes)."""
    return values.masked_fill(~keep[..., None], torch.nan).nanmedian(dim=1).values.nan_to_num()
