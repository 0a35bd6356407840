# SPDX-License-Identifier: Apache-2.0
"""A training that ends when its time is up."""

from __future__ import annotations

import logging
import math
import time

from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)


class StopAfter:
    """Handler for a trainer: end the run after the epoch in which its epochs have taken so many seconds in all.

    Only training counts, not the validation between epochs, as in ``history.json``; so two networks can be given the
    same time. All processes of one training stop together only if their clocks agree: use it with one process.

    Args:
        seconds: of training; None never stops.

    Raises:
        ValueError: ``seconds`` is not positive.

    Example:
        >>> trainer = Engine(lambda engine, batch: None)
        >>> StopAfter(1e-9).attach(trainer)
        >>> trainer.run([0], max_epochs=10).epoch
        1
    """

    def __init__(self, seconds: float | None = None) -> None:
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"seconds must be a positive number or None, got {seconds}.")
        self.seconds = seconds
        self._spent = self._begun = self._last = 0.0

    def attach(self, engine: Engine) -> None:
        """Look at the clock after each epoch."""
        engine.add_event_handler(Events.STARTED, self._forget)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _forget(self, engine: Engine) -> None:
        self._spent = 0.0

    def _begin(self, engine: Engine) -> None:
        self._begun = self._last = time.monotonic()

    def _note(self, engine: Engine) -> None:
        self._last = time.monotonic()

    def _look(self, engine: Engine) -> None:
        self._spent += self._last - self._begun
        if self.seconds is not None and self._spent >= self.seconds:
            logger.info("Training took %.0f of %.0f seconds; it ends here.", self._spent, self.seconds)
            engine.terminate()
