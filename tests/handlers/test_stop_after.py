# SPDX-License-Identifier: Apache-2.0
"""A run ends after the epoch in which its training time is up, whatever the validation takes."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from monai_ext.handlers import RunCheckpoint, StopAfter


def trainer(monkeypatch: pytest.MonkeyPatch, step: float, between: float) -> Engine:
    """An engine of two iterations an epoch on a clock of our own: each takes ``step``, validation ``between``."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    engine = Engine(lambda engine, batch: now.__setitem__(0, now[0] + step))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: now.__setitem__(0, now[0] + between))
    return engine


@pytest.mark.parametrize(("seconds", "epochs"), [(0.5, 1), (2.0, 1), (2.1, 2), (7.0, 4), (None, 9)])
def test_it_stops_after_the_epoch_in_which_time_is_up(
    seconds: float | None, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = trainer(monkeypatch, step=1.0, between=100.0)
    StopAfter(seconds).attach(engine)
    assert engine.run([0, 0], max_epochs=9).epoch == epochs


def test_a_second_run_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = trainer(monkeypatch, step=1.0, between=0.0)
    StopAfter(3.0).attach(engine)
    assert engine.run([0, 0], max_epochs=9).epoch == 2
    engine.state.max_epochs = None
    assert engine.run([0, 0], max_epochs=9).epoch == 2


@pytest.mark.parametrize(("clock", "epochs"), [("wall", 9), ("processor", 1)])
def test_time_may_be_what_the_process_computed(clock: str, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, computed = trainer(monkeypatch, step=0.01, between=0.0), itertools.count(step=10.0)
    monkeypatch.setattr(time, "process_time", lambda: next(computed))
    StopAfter(5.0, clock).attach(engine)
    assert engine.run([0, 0], max_epochs=9).epoch == epochs


def test_a_resumed_run_has_what_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = trainer(monkeypatch, step=1.0, between=0.0)
    StopAfter(8.0).attach(engine)
    network = torch.nn.Linear(1, 1)
    RunCheckpoint(tmp_path, {"network": network}).attach(engine)
    engine.run([0, 0], max_epochs=2)
    again = trainer(monkeypatch, step=1.0, between=0.0)
    StopAfter(8.0).attach(again)
    RunCheckpoint(tmp_path, {"network": network}, resume=True).attach(again)
    assert again.run([0, 0], max_epochs=9).epoch == 4


def test_the_end_of_a_stopped_run_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ended = trainer(monkeypatch, step=1.0, between=0.0), []
    StopAfter(1.0).attach(engine)
    engine.add_event_handler(Events.COMPLETED, ended.append)
    engine.run([0, 0], max_epochs=9)
    assert len(ended) == 1


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        StopAfter(seconds)


def test_a_clock_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="clock must be one of wall, processor, got 'moon'"):
        StopAfter(1.0, "moon")
