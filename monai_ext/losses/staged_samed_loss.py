# SPDX-License-Identifier: Apache-2.0
"""SAMed's loss on each stage of a mask decoder, with weight that moves to the last one."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor

from monai_ext.losses.samed_loss import SAMedLoss

STAGES = ("first", "second")


class StagedSAMedLoss(nn.Module):
    r"""`SAMedLoss` of a decoder with one stage or two, as H-SAM weighs them (Cheng et al. 2024).

    With the losses :math:`L_1` and :math:`L_2` of the two stages (https://arxiv.org/abs/2403.18271), each against the
    label at that stage's own resolution, and the epoch e, from 0,

    .. math:: L = (1 - w)\, L_1 + w\, L_2, \qquad w = s^{\,g^e}

    With the defaults w is 0.6 at first, 0.68 after 30 epochs and 0.98 after 300. `monai_ext.handlers.LossEpoch` tells
    the epoch. A decoder with one stage has the plain `SAMedLoss`.

    After a call ``terms`` has the parts before they are weighed, without gradient: ``ce`` and ``dice``, or these for
    each stage, ``first_ce`` to ``second_dice``.

    Args:
        dice_weight: see `SAMedLoss`.
        second_weight: s, the second stage's weight in the first epoch, 0 to 1.
        growth: g, above 0; 1 keeps the weight, a smaller number lets it grow faster.

    Shape:
        outputs: final logits, which do not count here, and one or two decoder's logits (B, K, h, w). target
        (B, 1, H, W), class indices 0 to K - 1. -> a single number.

    Raises:
        ValueError: a weight out of range, or shapes do not fit.
        TypeError: the outputs are none of that: the network is not in training mode.

    Example:
        >>> import torch
        >>> first, second = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 32, 32)
        >>> loss, target = StagedSAMedLoss(), torch.ones(2, 1, 32, 32)
        >>> _ = loss([second, first, second], target)
        >>> sorted(loss.terms)
        ['first_ce', 'first_dice', 'second_ce', 'second_dice']
    """

    def __init__(self, dice_weight: float = 0.8, second_weight: float = 0.6, growth: float = 0.99) -> None:
        super().__init__()
        if not 0 <= second_weight <= 1:
            raise ValueError(f"second_weight must be in [0, 1], got {second_weight}.")
        if not 0 < growth <= 1:
            raise ValueError(f"growth must be above 0 and at most 1, got {growth}.")
        self.stage = SAMedLoss(dice_weight)
        self.second_weight = second_weight
        self.growth = growth
        self.epoch = 0
        self.terms: dict[str, Tensor] = {}

    def set_epoch(self, epoch: int) -> None:
        """Take the weight of that epoch, the first of which is 0."""
        self.epoch = epoch

    def share(self) -> float:
        """Weight w of the second stage in this epoch."""
        return float(self.second_weight ** (self.growth**self.epoch))

    def forward(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        if isinstance(outputs, Tensor) or len(outputs) != 1 + len(STAGES):
            loss = self.stage(outputs, target)
            self.terms = self.stage.terms
            return loss
        losses, terms = [], {}
        for name, masks in zip(STAGES, outputs[1:], strict=True):
            losses.append(self.stage([outputs[0], masks], target))
            terms.update({f"{name}_{term}": value for term, value in self.stage.terms.items()})
        self.terms = terms
        weight = self.share()
        return (1 - weight) * losses[0] + weight * losses[1]
