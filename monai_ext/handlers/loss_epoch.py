# SPDX-License-Identifier: Apache-2.0
"""Tells a loss which epoch it is."""

from __future__ import annotations

from typing import Protocol

import torch.nn as nn
from ignite.engine import Engine, Events


class KnowsEpoch(Protocol):
    """A loss whose weights change from epoch to epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Take the weights of that epoch, the first of which is 0."""


class LossEpoch:
    """Tell the loss the epoch at its start, so that a run which is resumed goes on with the weights it had.

    Args:
        loss: the trainer's loss, with ``set_epoch``.

    Example:
        >>> class Loss(nn.Module):
        ...     def set_epoch(self, epoch): print("epoch", epoch)
        >>> trainer = Engine(lambda engine, batch: None)
        >>> LossEpoch(Loss()).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=2)
        epoch 0
        epoch 1
    """

    def __init__(self, loss: KnowsEpoch | nn.Module) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        """Follow the engine's epochs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Tell the engine's current epoch, counted from 0."""
        self.loss.set_epoch(engine.state.epoch - 1)  # type: ignore[operator]
