# SPDX-License-Identifier: Apache-2.0
"""Boundary-weighted BCE plus IoU loss."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

BCE_WEIGHTINGS = ("official", "paper")


class StructureLoss(nn.Module):
    r"""Cross entropy plus IoU, both meant to weigh pixels near boundaries more.

    Introduced by F3Net (Wei et al. 2020, https://arxiv.org/abs/1911.11445) and used by SAM2-UNet
    (https://arxiv.org/abs/2408.08870, equation 1). With the mask :math:`m`, :math:`p = \sigma(\mathrm{logits})` and
    :math:`w = 1 + 5\,|\mathrm{mean}_{31 \times 31}(m) - m|`, each sample and channel has the loss

    .. math:: \mathrm{BCE} + 1 - \frac{I + 1}{U - I + 1}, \quad I = \sum w p m, \quad U = \sum w (p + m).

    The published code means to weigh the cross entropy by :math:`w` as well, but reduces it to one number first, so
    that the weights cancel. ``official`` does the same, ``paper`` does what the equation says.

    Args:
        bce_weighting: ``official`` (plain mean) or ``paper`` (weighted mean).
        kernel_size: side of the square over which the mask is averaged, odd.
        boundary_weight: the 5 of the formula.

    Shape:
        logits (B, C, H, W). target (B, 1, H, W): for C = 1 a mask with values 0 to 1 (soft values are allowed), for
        C > 1 class indices 0 to C - 1; each class is then a mask against the rest. -> a single number.

    Raises:
        ValueError: an unknown weighting, an even kernel, or shapes that do not fit.

    Example:
        >>> loss = StructureLoss()(torch.zeros(2, 4, 32, 32), torch.zeros(2, 1, 32, 32))
        >>> bool(loss.isfinite())
        True
    """

    def __init__(self, bce_weighting: str = "official", kernel_size: int = 31, boundary_weight: float = 5.0) -> None:
        super().__init__()
        if bce_weighting not in BCE_WEIGHTINGS:
            raise ValueError(f"bce_weighting must be one of {', '.join(BCE_WEIGHTINGS)}, got {bce_weighting!r}.")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}.")
        self.bce_weighting = bce_weighting
        self.kernel_size = kernel_size
        self.boundary_weight = boundary_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        masks = as_masks(target, logits.shape[1]).to(logits.dtype)
        if masks.shape != logits.shape:
            raise ValueError(
                f"target must be (batch, 1, height, width) like the logits {tuple(logits.shape)}, "
                f"got {tuple(target.shape)}."
            )
        # bfloat16 cannot count the pixels of an image, so sums are taken in float32 whatever autocast says
        with torch.autocast(logits.device.type, enabled=False):
            logits, masks = _at_least_float(logits), _at_least_float(masks)
            weights = 1 + self.boundary_weight * (self._local_mean(masks) - masks).abs()
            return (self._cross_entropy(logits, masks, weights) + _iou_loss(logits, masks, weights)).mean()

    def _local_mean(self, masks: Tensor) -> Tensor:
        """Mean over a square, with zeros outside of the image."""
        rows = _running_sum(masks, self.kernel_size, dim=2)
        return _running_sum(rows, self.kernel_size, dim=3) / self.kernel_size**2

    def _cross_entropy(self, logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
        if self.bce_weighting == "official":
            return F.binary_cross_entropy_with_logits(logits, masks)
        each = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        return (weights * each).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))  # (B, C, H, W) -> (B, C)


def as_masks(target: Tensor, num_channels: int) -> Tensor:
    """Turn class indices (B, 1, H, W) into one mask a class (B, C, H, W); one channel stays as it is."""
    if num_channels == 1 or target.shape[1] != 1:
        return target
    classes = torch.arange(num_channels, device=target.device, dtype=target.dtype).reshape(1, -1, 1, 1)
    return (target == classes).to(torch.float32)


def _running_sum(x: Tensor, length: int, dim: int) -> Tensor:
    """Sum over a centred run of ``length`` along one axis: a difference of prefix sums, whatever the length."""
    before, after = length // 2 + 1, length // 2
    padding = (0, 0, before, after) if dim == 2 else (before, after)
    prefix = F.pad(x, padding).cumsum(dim)
    return prefix.narrow(dim, length, x.shape[dim]) - prefix.narrow(dim, 0, x.shape[dim])


def _iou_loss(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    probability = torch.sigmoid(logits)
    intersection = (weights * probability * masks).sum(dim=(2, 3))  # (B, C, H, W) -> (B, C)
    union = (weights * (probability + masks)).sum(dim=(2, 3))
    return 1 - (intersection + 1) / (union - intersection + 1)


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
