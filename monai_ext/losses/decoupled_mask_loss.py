# SPDX-License-Identifier: Apache-2.0
"""DeSAM's loss: the whole object's mask whatever the prompt, and whether the prompt was on the object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

IOU_LOSSES = ("mse", "l1")


class DecoupledMaskLoss(nn.Module):
    r"""Dice and cross entropy of the masks, and the error of the predicted IoUs (DeSAM, arXiv 2306.00499).

    With the logits :math:`z_k` of object k, its true mask :math:`y_k`, the predicted IoU :math:`q_k` and the point
    :math:`x` that was the prompt

    .. math:: L = w_d\, \mathrm{Dice}(z, y) + w_c\, \mathrm{BCE}(z, y)
              + w_i\, \lVert q - y(x) \rVert.

    The target of the mask is the whole object also where the prompt lies beside it: that is what decouples the two.
    The "IoU" is trained as the method does, to be 1 for a point on the object and 0 for any other.

    Dice is soft, per sample and object, with squared probabilities in the denominator and smoothing 1e-5. The default
    weights are the paper's. The published code effectively had ``ce_weight=0`` (with its version of MONAI the cross
    entropy of a single channel was always 0), ``iou_weight=1`` and ``iou_loss="l1"``.

    All sums are taken in float32 (or float64, if that comes in) whatever autocast says. After a call ``terms`` has
    the parts of the sum before they are weighed, without gradient, for the log: ``dice``, ``ce`` and ``iou``.

    Args:
        dice_weight: :math:`w_d`.
        ce_weight: :math:`w_c`.
        iou_weight: :math:`w_i`.
        iou_loss: ``mse`` or ``l1``.

    Shape:
        outputs: as the network gives them in training, masks (B, n, h, w), logits, and, unless its prompt is always
        the whole image, IoUs (B, n) and points (B, 2), x and y in pixels of the masks. target (B, 1, h, w), class
        indices 0 (no object) to n. -> a single number.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
        TypeError: the outputs are no sequence: the network is not in training mode.

    Example:
        >>> loss = DecoupledMaskLoss()
        >>> outputs = [torch.zeros(2, 1, 8, 8), torch.zeros(2, 1), torch.tensor([[3.0, 3.0], [0.0, 7.0]])]
        >>> bool(loss(outputs, torch.ones(2, 1, 8, 8)).isfinite()), sorted(loss.terms)
        (True, ['ce', 'dice', 'iou'])
    """

    def __init__(
        self, dice_weight: float = 1.0, ce_weight: float = 1.0, iou_weight: float = 10.0, iou_loss: str = "mse"
    ) -> None:
        super().__init__()
        for name, weight in (("dice_weight", dice_weight), ("ce_weight", ce_weight), ("iou_weight", iou_weight)):
            if not weight >= 0:
                raise ValueError(f"{name} must be at least 0, got {weight}.")
        if iou_loss not in IOU_LOSSES:
            raise ValueError(f"iou_loss must be one of {', '.join(IOU_LOSSES)}, got {iou_loss!r}.")
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight
        self.iou_weight = iou_weight
        self.iou_loss = iou_loss
        self.dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1e-5, smooth_dr=1e-5)
        self.terms: dict[str, Tensor] = {}

    def forward(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        _check(outputs, target)
        # bfloat16 cannot count the pixels of an image
        with torch.autocast(target.device.type, enabled=False):
            logits = _at_least_float(outputs[0])
            objects = torch.arange(1, logits.shape[1] + 1, device=target.device)[:, None, None]
            masks = (target == objects).to(logits.dtype)  # (B, n, h, w)
            dice = self.dice(logits, masks)
            cross_entropy = F.binary_cross_entropy_with_logits(logits, masks)
            iou = torch.zeros_like(dice)
            if len(outputs) > 1:
                iou = self._iou_error(_at_least_float(outputs[1]), masks, outputs[2])
            loss = self.dice_weight * dice + self.ce_weight * cross_entropy + self.iou_weight * iou
        terms = {"dice": dice, "ce": cross_entropy, "iou": iou}
        self.terms = {name: value.detach() for name, value in terms.items()}
        return loss

    def _iou_error(self, ious: Tensor, masks: Tensor, points: Tensor) -> Tensor:
        columns, rows = points.round().long().unbind(dim=1)
        images = torch.arange(len(masks), device=masks.device)
        hit = masks[images, :, rows, columns]  # (B, n): is the point on the object?
        return F.mse_loss(ious, hit) if self.iou_loss == "mse" else F.l1_loss(ious, hit)


def _check(outputs: Sequence[Tensor], target: Tensor) -> None:
    if isinstance(outputs, Tensor) or len(outputs) not in (1, 3):
        raise TypeError(
            "outputs must be a list [masks] or [masks, IoUs, points], as the network gives them in training, got "
            f"{type(outputs).__name__}; call network.train()."
        )
    batch, objects, *size = outputs[0].shape
    if target.shape != (batch, 1, *size):
        raise ValueError(f"target must be {(batch, 1, *size)} to fit the masks, got {tuple(target.shape)}.")
    if len(outputs) == 3 and (outputs[1].shape != (batch, objects) or outputs[2].shape != (batch, 2)):
        raise ValueError(
            f"IoUs must be {(batch, objects)} and points {(batch, 2)}, got {tuple(outputs[1].shape)} and "
            f"{tuple(outputs[2].shape)}."
        )


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
