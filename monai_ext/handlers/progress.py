# SPDX-License-Identifier: Apache-2.0
"""Progress bar with the time left, and one line in the log per epoch."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any, TextIO

from ignite.engine import Engine, Events
from monai.engines.trainer import Trainer
from torch import Tensor
from tqdm import tqdm

from monai_ext.distributed import is_main

logger = logging.getLogger(__name__)


class EpochProgress:
    """Show how far a run is: a bar on a terminal, nothing elsewhere, and in the log one line per epoch.

    On a trainer the bar counts the whole run, so that the time left is that of the whole run (a resumed one starts
    where it goes on); on an evaluator it counts one validation. Only rank 0 shows anything; its loss is that of its
    own batches. Attach it after the `ValidationHandler`, whose metric it prints::

        epoch 3 of 20: loss 0.4312, learning rate 0.0009, val_mean_dice 0.8120, 41 s

    Args:
        evaluator: the engine that validates, for its key metric.
        name: what the bar is called on an evaluator.
        stream: where the bar is drawn, ``sys.stderr`` by default.

    Example:
        >>> trainer = Engine(lambda engine, batch: {"loss": 0.5})
        >>> EpochProgress().attach(trainer)
        >>> trainer.run([0, 1], max_epochs=2).epoch
        2
    """

    def __init__(self, evaluator: Engine | None = None, name: str = "validation", stream: TextIO | None = None) -> None:
        self.evaluator = evaluator
        self.name = name
        self.stream = stream
        self._bar: tqdm[Any] | None = None
        self._losses: list[tuple[float, int]] = []
        self._started = 0.0
        self._learning_rate: float | None = None

    def attach(self, engine: Engine) -> None:
        """Follow the engine's iterations and epochs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.TERMINATE, self._close)

    def _start_epoch(self, engine: Engine) -> None:
        self._losses, self._started = [], time.perf_counter()
        optimizer = getattr(engine, "optimizer", None)
        # read before the schedule moves it to the next epoch's
        self._learning_rate = None if optimizer is None else float(optimizer.param_groups[0]["lr"])
        stream = self.stream or sys.stderr
        if self._bar is None and is_main() and stream.isatty():
            self._bar = self._new_bar(engine, stream)
        if self._bar is not None and _trains(engine):
            self._bar.set_description(f"epoch {engine.state.epoch}/{engine.state.max_epochs}")

    def _new_bar(self, engine: Engine, stream: TextIO) -> tqdm[Any]:
        length = engine.state.epoch_length
        if not _trains(engine):
            return tqdm(total=length, desc=self.name, file=stream, leave=False)
        epochs = engine.state.max_epochs
        total = length * epochs if length is not None and epochs is not None else None
        return tqdm(total=total, initial=engine.state.iteration, file=stream, dynamic_ncols=True)

    def _advance(self, engine: Engine) -> None:
        loss, samples = _loss_of(engine.state.output)
        if loss is not None:
            self._losses.append((loss, samples))
        if self._bar is not None:
            self._bar.update()
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

    def _finish_epoch(self, engine: Engine) -> None:
        if not _trains(engine):
            self._close(engine)
        elif is_main():
            with tqdm.external_write_mode(file=self.stream or sys.stderr):  # the line does not tear the bar
                logger.info("%s", self._line(engine))

    def _line(self, engine: Engine) -> str:
        parts = []
        if self._losses:
            total = math.fsum(loss * samples for loss, samples in self._losses)
            parts.append(f"loss {total / sum(samples for _, samples in self._losses):.4f}")
        if self._learning_rate is not None:
            parts.append(f"learning rate {self._learning_rate:.3g}")
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            name = getattr(self.evaluator.state, "key_metric_name", None) or ""
            value = self.evaluator.state.metrics.get(name)
            parts += [] if value is None else [f"{name} {float(value):.4f}"]
        parts.append(f"{time.perf_counter() - self._started:.0f} s")
        return f"epoch {engine.state.epoch} of {engine.state.max_epochs}: {', '.join(parts)}"

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _trains(engine: Engine) -> bool:
    """Return whether the engine runs epoch after epoch; an evaluator runs one, whatever number it bears."""
    return isinstance(engine, Trainer) or not hasattr(engine, "data_loader")


def _loss_of(output: object) -> tuple[float | None, int]:
    """Return the mean loss of an iteration and its number of samples; decollated, each sample bears that loss."""
    samples = len(output) if isinstance(output, list) and output else 1
    first = output[0] if isinstance(output, list) and output else output
    if not isinstance(first, dict) or first.get("loss") is None:
        return None, 0
    if first is output and isinstance(first.get("image"), Tensor):
        samples = len(first["image"])
    return float(first["loss"]), samples
