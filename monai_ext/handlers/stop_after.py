# SPDX-License-Identifier: Apache-2.0
"""A training that ends when its time is up."""

from __future__ import annotations

import logging
import math
import time

from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)

CLOCKS = ("wall", "processor")
SPENT = "seconds_of_training"


class StopAfter:
    """Handler for a trainer: end the run after the epoch in which its epochs have taken so many seconds in all.

    Only training counts, not the validation between epochs, as in ``history.json``; so two networks can be given the
    same time. What was spent is kept in ``trainer.state`` and with a checkpoint, so that a resumed run has what was
    left. All processes of one training stop together only if their clocks agree: use it with one process.

    Args:
        seconds: of training; None never stops.
        clock: ``wall``, as a watch shows, or ``processor``: what this process's threads have computed, which other
            programs on the machine hardly change. It leaves out what a GPU and worker processes do.

    Raises:
        ValueError: ``seconds`` is not positive, or there is no such clock.

    Example:
        >>> trainer = Engine(lambda engine, batch: None)
        >>> StopAfter(1e-9).attach(trainer)
        >>> trainer.run([0], max_epochs=10).epoch
        1
    """

    def __init__(self, seconds: float | None = None, clock: str = "wall") -> None:
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"seconds must be a positive number or None, got {seconds}.")
        if clock not in CLOCKS:
            raise ValueError(f"clock must be one of {', '.join(CLOCKS)}, got {clock!r}.")
        self.seconds = seconds
        self.clock = clock
        self._begun = self._last = 0.0

    def attach(self, engine: Engine) -> None:
        """Look at the clock after each epoch."""
        engine.state_dict_user_keys.append(SPENT)
        engine.add_event_handler(Events.STARTED, self._forget)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _now(self) -> float:
        return time.monotonic() if self.clock == "wall" else time.process_time()

    def _forget(self, engine: Engine) -> None:
        setattr(engine.state, SPENT, 0.0)

    def _begin(self, engine: Engine) -> None:
        self._begun = self._last = self._now()

    def _note(self, engine: Engine) -> None:
        self._last = self._now()

    def _look(self, engine: Engine) -> None:
        spent = getattr(engine.state, SPENT) + self._last - self._begun
        setattr(engine.state, SPENT, spent)
        if self.seconds is not None and spent >= self.seconds:
            logger.info("Training took %.0f of %.0f %s seconds; it ends here.", spent, self.seconds, self.clock)
            engine.terminate()
