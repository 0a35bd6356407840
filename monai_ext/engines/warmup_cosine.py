# SPDX-License-Identifier: Apache-2.0
"""Learning rate that rises linearly for a share of the run and then falls to nothing along a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from monai_ext.engines.warmup_poly import WarmupPoly


class WarmupCosine(WarmupPoly):
    r"""Schedule of masked autoencoders (He et al. 2022, https://arxiv.org/abs/2111.06377), per optimiser step.

    With M = all steps of the run and W = ``warmup_share`` of them, step i = 0, 1, 2, ... has the rate

    .. math:: \mathrm{base} \cdot (i + 1) / W \ \text{for}\ i < W, \quad
              \mathrm{base} \cdot \tfrac12 \left(1 + \cos \pi \frac{i - W}{M - W}\right) \ \text{else}.

    It is used, counts its steps and is resumed as `WarmupPoly`.

    Args:
        optimizer: each of its parameter groups has its own base rate.
        warmup_share: W as a share of M, 0 for no warm-up.
        max_epochs: epochs of the run.
        steps_per_epoch: batches of an epoch on one process, ``len(dataloader)``.
        accumulation_steps: batches for one step of the optimiser, as given to the trainer.
        last_epoch: last step done, counted in batches; -1 starts anew. Torch's name for it.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        >>> schedule = WarmupCosine(optimizer, warmup_share=0.1, max_epochs=10, steps_per_epoch=4)
        >>> schedule.factor(4), round(schedule.factor(22), 9), round(schedule.factor(40), 9)
        (1.0, 0.5, 0.0)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_share: float = 0.05,
        *,
        max_epochs: int,
        steps_per_epoch: int,
        accumulation_steps: int = 1,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= warmup_share < 1:
            raise ValueError(f"warmup_share must be in [0, 1), got {warmup_share}.")
        steps = max(max_epochs, 0) * math.ceil(max(steps_per_epoch, 0) / max(accumulation_steps, 1))
        super().__init__(
            optimizer,
            int(warmup_share * steps),
            max_epochs=max_epochs,
            steps_per_epoch=steps_per_epoch,
            accumulation_steps=accumulation_steps,
            max_warmup_share=1.0,
            last_epoch=last_epoch,
        )

    def factor(self, step: int) -> float:
        """Return what the base rate is multiplied by at optimiser step ``step``, from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
