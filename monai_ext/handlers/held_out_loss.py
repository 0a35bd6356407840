# SPDX-License-Identifier: Apache-2.0
"""The loss on data that does not train, as the key metric of an evaluator."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric

from monai_ext.handlers._results import gather


class HeldOutLoss(Metric):
    """Mean of a loss over the samples of an evaluator, for methods that learn without labels.

    For ``key_val_metric`` of MONAI's evaluators. Smaller is better: give the evaluator
    `monai_ext.engines.smaller_is_better` as its ``metric_cmp_fn``, and ``decollate=False``, since the loss wants whole
    batches, which a network may answer with several tensors. With several processes it is the mean over all of them.

    Args:
        loss: called with the batch's ``pred`` and ``label`` (None where there is none), as a trainer calls it.

    Raises:
        NotComputableError: by the run, when there was no batch.
        ValueError: by the run, for batches that were taken apart.

    Example:
        >>> zeros = [torch.zeros(count, 1) for count in (1, 3)]
        >>> evaluator = Engine(lambda engine, x: {"image": x, "pred": x, "label": x + len(x)})
        >>> HeldOutLoss(nn.L1Loss()).attach(evaluator, "held_out_loss")
        >>> evaluator.run(zeros).metrics["held_out_loss"]
        2.5
    """

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss
        super().__init__()

    def reset(self) -> None:
        """Forget all batches."""
        self._seen: list[tuple[float, int]] = []

    def iteration_completed(self, engine: Engine) -> None:
        """Take in the engine's last batch."""
        self.update(engine.state.output)

    def update(self, output: Any) -> None:
        """Take in a batch."""
        if not isinstance(output, dict) or "pred" not in output or "image" not in output:
            raise ValueError(f"output must be one dict with image and pred (decollate=False), got {type(output)}.")
        with torch.no_grad():
            loss = self.loss(output["pred"], output.get("label")).mean()
        self._seen.append((float(loss), len(output["image"])))

    def compute(self) -> float:
        """Return the mean over the samples of all processes; every process has to call this."""
        seen = gather(self._seen)
        samples = sum(count for _, count in seen)
        if not samples:
            raise NotComputableError("HeldOutLoss needs at least one batch.")
        return math.fsum(loss * count for loss, count in seen) / samples
