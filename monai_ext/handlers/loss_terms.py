# SPDX-License-Identifier: Apache-2.0
"""Means of a loss's terms over each epoch, among the trainer's metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch.nn as nn
from ignite.engine import Engine, Events
from torch import Tensor

from monai_ext.handlers._results import gather


class HasTerms(Protocol):
    """A loss that keeps the terms of its last call."""

    terms: Mapping[str, Tensor]


class LossTerms:
    """Average what a loss is the sum of, so that one sees which of its terms falls.

    After each epoch ``trainer.state.metrics`` has a number ``loss_<term>`` for each of ``loss.terms``: the mean over
    the epoch's samples, on all processes. From there `RunRecord` takes it to ``history.json``
    (``train_loss_<term>``) and `TensorBoardStatsHandler` to its curves; *attach it before them*. Terms stay on their
    device until the epoch ends, so that nothing waits for them.

    Args:
        loss: the trainer's loss, with a mapping ``terms`` from names to single numbers after each call; a loss
            without it has nothing to average.

    Example:
        >>> import torch
        >>> loss = torch.nn.MSELoss()
        >>> loss.terms = {"dice": torch.tensor(0.25)}
        >>> trainer = Engine(lambda engine, batch: {"image": batch})
        >>> LossTerms(loss).attach(trainer)
        >>> trainer.run([torch.zeros(2, 1)], max_epochs=1).metrics
        {'loss_dice': 0.25}
    """

    def __init__(self, loss: HasTerms | nn.Module) -> None:
        self.loss = loss
        self._seen: list[tuple[dict[str, Tensor], int]] = []

    def attach(self, engine: Engine) -> None:
        """Follow the engine's iterations and epochs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._average)

    def _start(self, engine: Engine) -> None:
        self._seen = []

    def _add(self, engine: Engine) -> None:
        self._seen.append((dict(getattr(self.loss, "terms", {})), _samples_of(engine.state.output)))

    def _average(self, engine: Engine) -> None:
        mine = [({name: float(value) for name, value in terms.items()}, samples) for terms, samples in self._seen]
        seen = gather(mine)
        for name in dict.fromkeys(name for terms, _ in seen for name in terms):
            values = [(terms[name], samples) for terms, samples in seen if name in terms]
            total = math.fsum(value * samples for value, samples in values)
            engine.state.metrics[f"loss_{name}"] = total / sum(samples for _, samples in values)


def _samples_of(output: object) -> int:
    """Return how many samples an iteration had, decollated or not."""
    if isinstance(output, list):
        return max(len(output), 1)
    image = output.get("image") if isinstance(output, Mapping) else None
    return len(image) if isinstance(image, Tensor) else 1
