# SPDX-License-Identifier: Apache-2.0
"""Learning rate that rises linearly for some steps and then falls as a power of what is left."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)


class WarmupPoly(LRScheduler):
    r"""Schedule of SAMed (Zhang and Liu 2023, https://arxiv.org/abs/2304.13785), per optimiser step.

    With W = ``warmup_steps``, M = all steps of the run and p = ``power``, step i = 0, 1, 2, ... has the rate

    .. math:: \mathrm{base} \cdot (i + 1) / W \ \text{for}\ i < W, \quad
              \mathrm{base} \cdot (1 - (i - W) / M)^p \ \text{else}.

    As in the published code W is not taken off M, so the rate does not fall to 0 at the end.

    Use it with ``LrScheduleHandler(..., epoch_level=False)``, which calls `step` after every batch. With gradient
    accumulation the network changes only once in ``accumulation_steps`` batches: W, M and i count those changes, so
    that the rate is that of a run with the larger batch (and the last, shorter group of an epoch counts as one).

    **Short runs.** A warm-up that is longer than ``max_warmup_share`` of M, a quarter by default, is cut to it, with
    a line in the log; a run of a few hundred steps would else end before it has learnt at its full rate. 1.0 cuts
    only what is longer than the whole run.

    The state dict holds the place in the schedule and not its shape: a run that is resumed with more epochs goes on
    along the longer curve.

    Args:
        optimizer: each of its parameter groups has its own base rate.
        warmup_steps: W, 0 for none.
        max_epochs: epochs of the run.
        steps_per_epoch: batches of an epoch on one process, ``len(dataloader)``.
        power: p; 0.9 in SAMed, 7 in its ViT-H variant; with 0 the rate stays.
        accumulation_steps: batches for one step of the optimiser, as given to the trainer.
        max_warmup_share: longest warm-up as a share of M.
        last_epoch: last step done, counted in batches; -1 starts anew. Torch's name for it.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        >>> schedule = WarmupPoly(optimizer, warmup_steps=2, max_epochs=10, steps_per_epoch=4)
        >>> schedule.get_last_lr()
        [0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 250,
        *,
        max_epochs: int,
        steps_per_epoch: int,
        power: float = 0.9,
        accumulation_steps: int = 1,
        max_warmup_share: float = 0.25,
        last_epoch: int = -1,
    ) -> None:
        for name, value, least in (
            ("warmup_steps", warmup_steps, 0),
            ("max_epochs", max_epochs, 1),
            ("steps_per_epoch", steps_per_epoch, 1),
            ("accumulation_steps", accumulation_steps, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if power < 0:
            raise ValueError(f"power must be at least 0, got {power}.")
        if not 0 <= max_warmup_share <= 1:
            raise ValueError(f"max_warmup_share must be in [0, 1], got {max_warmup_share}.")
        self.steps_per_epoch = steps_per_epoch
        self.accumulation_steps = accumulation_steps
        self.total_steps = max_epochs * self._updates_in(steps_per_epoch)
        self.warmup_steps = _shortened(warmup_steps, self.total_steps, max_warmup_share)
        self.power = power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rate of each parameter group at this place."""
        factor = self.factor(self._updates_before(self.last_epoch))
        return [base * factor for base in self.base_lrs]

    def factor(self, step: int) -> float:
        """Return what the base rate is multiplied by at optimiser step ``step``, from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return max(0.0, 1 - (step - self.warmup_steps) / self.total_steps) ** self.power

    def step(self, epoch: int | None = None) -> None:
        """Go on by one batch."""
        if self.accumulation_steps == 1 or self._step_count != 1:
            super().step(epoch)
            return
        with warnings.catch_warnings():
            # torch wants one step of the optimiser before each of ours; while gradients gather there is none
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the schedule and the base rates."""
        shape = ("steps_per_epoch", "accumulation_steps", "total_steps", "warmup_steps", "power")
        return {key: value for key, value in super().state_dict().items() if key not in shape}

    def _updates_in(self, batches: int) -> int:
        """Return how often the optimiser steps in one epoch of so many batches."""
        return math.ceil(batches / self.accumulation_steps)

    def _updates_before(self, batches: int) -> int:
        """Return how often the optimiser has stepped when so many batches of the run are done."""
        epochs, rest = divmod(batches, self.steps_per_epoch)
        return epochs * self._updates_in(self.steps_per_epoch) + rest // self.accumulation_steps


def _shortened(warmup_steps: int, total_steps: int, share: float) -> int:
    longest = int(share * total_steps)
    if warmup_steps <= longest:
        return warmup_steps
    logger.warning(
        "warmup_steps %d is more than %g %% of the %d steps of this run; the warm-up is cut to %d.",
        warmup_steps,
        100 * share,
        total_steps,
        longest,
    )
    return longest
