# SPDX-License-Identifier: Apache-2.0
"""Learning rate that rises linearly for some steps and then stays."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupConstant(LRScheduler):
    r"""Schedule of anatomical embedding (Yan et al. 2022, https://arxiv.org/abs/2012.02383), per batch.

    With W = ``warmup_steps`` and f = ``start_factor``, batch i = 0, 1, 2, ... has the rate

    .. math:: \mathrm{base} \cdot (f + (1 - f) \, i / W) \ \text{for}\ i < W, \quad \mathrm{base} \ \text{else}.

    Use it with ``LrScheduleHandler(..., epoch_level=False)``, which calls `step` after every batch. The state dict
    holds the place in the schedule and not its shape.

    Args:
        optimizer: each of its parameter groups has its own base rate.
        warmup_steps: W, 0 for none.
        start_factor: f, of the base rate.
        last_epoch: last step done; -1 starts anew. Torch's name for it.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> import torch
        >>> schedule = WarmupConstant(torch.optim.SGD([torch.zeros(1)], lr=0.5), warmup_steps=2, start_factor=0.2)
        >>> schedule.get_last_lr()
        [0.1]
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 500, start_factor: float = 0.001, last_epoch: int = -1
    ) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}.")
        if not 0 < start_factor <= 1:
            raise ValueError(f"start_factor must be in (0, 1], got {start_factor}.")
        self.warmup_steps = warmup_steps
        self.start_factor = start_factor
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rate of each parameter group at this place."""
        factor = self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def factor(self, step: int) -> float:
        """Return what the base rate is multiplied by at step ``step``, from 0."""
        if step >= self.warmup_steps:
            return 1.0
        return self.start_factor + (1 - self.start_factor) * step / self.warmup_steps

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the schedule and the base rates."""
        shape = ("warmup_steps", "start_factor")
        return {key: value for key, value in super().state_dict().items() if key not in shape}
