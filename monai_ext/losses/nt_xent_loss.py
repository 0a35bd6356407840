# SPDX-License-Identifier: Apache-2.0
"""Contrastive loss of two views, exact where it is small."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class NTXentLoss(nn.Module):
    r"""Cross entropy of finding each view's partner among all views (Chen et al. 2020, https://arxiv.org/abs/2002.05709).

    With the cosine :math:`s_{ij}` of views i and j of N images, the mean over all 2N views of

    .. math:: -\log \frac{\exp(s_{ij} / \tau)}{\sum_{k \ne i} \exp(s_{ik} / \tau)},

    j being the partner of i. It is what MONAI's ``ContrastiveLoss`` means, by a log-softmax: digits of a small loss
    stay, and no exponential overflows at a low temperature. SimCLR's published code gives twice this mean. Always in
    float32 at least. Each process compares the views of its own batch.

    Args:
        temperature: the :math:`\tau`; SimCLR's is 0.1 on ImageNet.

    Shape:
        first and second views (N, C), or both in a list as the first argument (what comes after it is not looked at,
        so that a trainer may pass a label) -> a single number.

    Raises:
        ValueError: a temperature that is not positive, shapes that differ, or fewer than two images.

    Example:
        >>> views = torch.eye(4)
        >>> bool(NTXentLoss()([views, views], None) < NTXentLoss()([views, views.flip(0)], None))
        True
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def forward(self, first: Tensor | Sequence[Tensor], second: Tensor | None = None) -> Tensor:
        one, other = (first, second) if isinstance(first, Tensor) else first
        if not isinstance(other, Tensor) or one.shape != other.shape or one.ndim != 2 or len(one) < 2:
            shapes = [tuple(view.shape) if isinstance(view, Tensor) else view for view in (one, other)]
            raise ValueError(f"both views must be (N, C) with N at least 2 (nothing to tell apart), got {shapes}.")
        return _nt_xent(torch.cat([one, other]), self.temperature)


def _nt_xent(views: Tensor, temperature: float) -> Tensor:
    """First views, then second ones: (2N, C)."""
    with torch.autocast(views.device.type, enabled=False):
        views = F.normalize(views if views.dtype == torch.float64 else views.float(), dim=1)
        itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
        logits = (views @ views.T / temperature).masked_fill(itself, -torch.inf)  # (2N, 2N)
        partner = torch.arange(len(views), device=views.device).roll(len(views) // 2)
        return F.cross_entropy(logits, partner)
