# SPDX-License-Identifier: Apache-2.0
"""Cross entropy and Dice of all classes, at the mask decoder's own resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor


class SAMedLoss(nn.Module):
    r"""Loss of SAMed (Zhang and Liu 2023, https://arxiv.org/abs/2304.13785), which SAMora takes over.

    With the decoder's logits :math:`z`, a softmax :math:`p` over K classes, background among them, and the label
    :math:`y`, brought to the size of the logits without mixing classes,

    .. math:: L = (1 - w)\, \mathrm{CE}(z, y) + w\, \frac{1}{K} \sum_c
              \Bigl(1 - \frac{2 \sum p_c y_c + \epsilon}{\sum p_c^2 + \sum y_c^2 + \epsilon}\Bigr)

    where the sums of Dice run over the pixels of the whole batch, so that a class that one image lacks is judged on the
    others. One object against background is two classes.

    All sums are taken in float32 (or float64, if that comes in) whatever autocast says. After a call ``terms`` has
    the two parts before they are weighed, without gradient, for the log: ``ce`` and ``dice``.

    Args:
        dice_weight: w.

    Shape:
        outputs: as the network gives them in training, final logits, which do not count here, and the decoder's
        logits (B, K, h, w). target (B, 1, H, W), class indices 0 to K - 1. -> a single number.

    Raises:
        ValueError: the weight is none of a mean, or shapes do not fit.
        TypeError: the outputs are no sequence: the network is not in training mode.

    Example:
        >>> loss = SAMedLoss()
        >>> outputs = [torch.zeros(2, 1, 32, 32), torch.zeros(2, 2, 8, 8)]
        >>> bool(loss(outputs, torch.ones(2, 1, 32, 32)).isfinite()), sorted(loss.terms)
        (True, ['ce', 'dice'])
    """

    def __init__(self, dice_weight: float = 0.8) -> None:
        super().__init__()
        if not 0 <= dice_weight <= 1:
            raise ValueError(f"dice_weight must be in [0, 1], got {dice_weight}.")
        self.dice_weight = dice_weight
        self.dice = DiceLoss(
            softmax=True, to_onehot_y=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
        )
        self.terms: dict[str, Tensor] = {}

    def forward(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        masks = _decoded(outputs)
        if target.ndim != 4 or target.shape[:2] != (len(masks), 1):
            raise ValueError(f"target must be ({len(masks)}, 1, height, width), got {tuple(target.shape)}.")
        with torch.autocast(masks.device.type, enabled=False):  # bfloat16 cannot count the pixels of an image
            masks = masks if masks.dtype == torch.float64 else masks.float()
            labels = F.interpolate(target.to(masks.dtype), size=masks.shape[2:], mode="nearest-exact")
            ce, dice = F.cross_entropy(masks, labels[:, 0].long()), self.dice(masks, labels)
            loss = (1 - self.dice_weight) * ce + self.dice_weight * dice
        self.terms = {"ce": ce.detach(), "dice": dice.detach()}
        return loss


def _decoded(outputs: Sequence[Tensor]) -> Tensor:
    if isinstance(outputs, Tensor) or len(outputs) != 2:
        raise TypeError(
            "outputs must be a list [final logits, the decoder's logits], as the network gives them in training, got "
            f"{type(outputs).__name__}; call network.train()."
        )
    if outputs[1].shape[1] < 2:
        raise ValueError(f"the decoder's logits must have 2 channels or more, got {outputs[1].shape[1]}.")
    return outputs[1]
