# SPDX-License-Identifier: Apache-2.0
"""Writes down what a run was and how it went, for the report and for whoever asks a year later."""

from __future__ import annotations

import json
import logging
import operator
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import Tensor

from monai_ext.distributed import is_main
from monai_ext.extras import check_flags
from monai_ext.files import write_json
from monai_ext.handlers._checkpoint_file import keep_aside
from monai_ext.handlers._provenance import (
    bundle_identity,
    command_line,
    config_files_of,
    count_parameters,
    hardware,
    jsonable,
    named_files,
    now,
    versions,
)
from monai_ext.handlers._results import gather

logger = logging.getLogger(__name__)


class RunRecord:
    """Handler for a trainer: ``run.json`` (what is running) and ``history.json`` (a row per epoch).

    ``run.json`` is written when training starts (status "running"), after each epoch, and at the end ("finished",
    or "failed" when an exception or an interrupt ends it; only a killed process leaves "running" behind). Both
    files of an earlier run in the folder are renamed to ``*_backup_<n>.json`` when a new one starts. A row of
    the history has ``epoch``, ``train_loss`` (mean over the epoch's samples on all processes), ``learning_rate`` (of
    the first parameter group during the epoch), ``seconds`` of training and ``processor_seconds``, what the threads of
    this process computed in them, ``train_<metric>`` for each number among the trainer's metrics (`LossTerms` puts some
    there), and ``val_<metric>`` for each among the evaluator's if it ran in this epoch.

    With several processes each attaches it (losses are averaged over all); the first writes. Place it before
    handlers that save checkpoints, and before any other that handles exceptions (`StatsHandler`). Give it to the
    checkpoint among the objects to save (without that it reads its own files): a resumed run then goes on with the
    same history, without the rows of epochs that it repeats, and with the time spent before.

    Attached to an evaluator it writes ``evaluation.json`` instead, when it has finished, with the same fields and
    the evaluator's metrics; no file of a training is touched.

    Args:
        output_dir: folder for the files.
        bundle: the bundle's folder, from which its name and version are read, or its name.
        knobs: settings by name; what JSON cannot hold is written as text. Files that they name (weights, a list of
            cases) are in ``run.json`` under ``files``, with their size and SHA-256 when the run started.
        network: its parameters are counted when the run starts.
        seed: of the run.
        evaluator: the one that validates during training.
        key_metric: the evaluator's metric that says which epoch was best, larger if not told otherwise; None takes the
            evaluator's own key metric; its ``metric_cmp_fn``, if it has one, says what is better.
        config_files: None takes them from the command line.
        facts: what the run found out by itself, such as which cases train; in ``run.json`` under ``facts``.

    Raises:
        InputError: a knob is the text "true" or "false", which would silently count as true.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> record = RunRecord("eval", bundle="toy", knobs={"batch_size": 2}, network=net, seed=0)
        >>> record.attach(Engine(lambda engine, batch: {"loss": net(batch).sum()}))
    """

    def __init__(
        self,
        output_dir: str | Path,
        bundle: str | Path,
        knobs: Mapping[str, Any],
        network: nn.Module,
        seed: int | None = None,
        evaluator: Engine | None = None,
        key_metric: str | None = None,
        config_files: Sequence[str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.network = network
        self.evaluator = evaluator
        self.key_metric = key_metric
        self.config_files = config_files
        check_flags(knobs)
        self._knobs = knobs
        self._fixed: dict[str, Any] = {**bundle_identity(bundle), "seed": seed, "knobs": jsonable(knobs)}
        if facts is not None:
            self._fixed["facts"] = jsonable(facts)
        self._rows: dict[int, dict[str, Any]] = {}
        self._losses: list[tuple[Any, int]] = []
        self._epoch: dict[str, Any] = {}
        self._seconds_before = 0.0
        self._started: str | None = None
        self._clock = time.monotonic()
        self._no_epoch_yet = True
        self._run: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Record the engine's run, as an evaluation if it is an evaluator."""
        engine.add_event_handler(Events.STARTED, self._begin)
        if isinstance(engine, Evaluator):
            engine.add_event_handler(Events.COMPLETED, self._end_evaluation)
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        if self.evaluator is not None:
            # its own event, so that it does not matter which of the trainer's handlers validates, and when
            self.evaluator.add_event_handler(Events.COMPLETED, self._add_validation, engine)

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the time spent, as plain Python values."""
        return {"epochs": list(self._rows.values()), "started": self._started, "seconds": self._seconds()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved history; rows of epochs that are run again are dropped when the first of them starts."""
        self._rows = {int(row["epoch"]): dict(row) for row in state["epochs"]}
        self._started = state["started"]
        self._seconds_before, self._clock = float(state["seconds"]), time.monotonic()

    def _begin(self, engine: Engine) -> None:
        """Collect what is known; written with the first epoch, so that a refused start leaves all files alone."""
        trainable, total = count_parameters(self.network)
        share = 100 * trainable / max(total, 1)
        logger.info("%s trainable of %s parameters (%.2f %%)", f"{trainable:,}", f"{total:,}", share)
        self._clock, self._no_epoch_yet = time.monotonic(), True
        device = getattr(engine.state, "device", None)
        self._run = {
            **self._fixed,
            "files": named_files(self._knobs) if is_main() else {},
            "started": now(),
            "finished": None,
            "seconds": 0.0,
            "status": "running",
            "config_files": list(self.config_files) if self.config_files is not None else config_files_of(),
            "command": command_line(),
            "versions": versions(),
            "hardware": hardware(),
            "parameters": {"trainable": trainable, "total": total},
            "best": None,
            "device": "" if device is None else str(device),
        }

    def _begin_epoch(self, engine: Engine) -> None:
        if self._no_epoch_yet:
            self._take_up(engine.state.epoch)
        self._losses = []
        groups = getattr(getattr(engine, "optimizer", None), "param_groups", None)
        # before any scheduler steps: the rate this epoch is trained with
        self._epoch = {"learning_rate": float(groups[0]["lr"]) if groups else None, "clock": _clocks()}

    def _take_up(self, epoch: int) -> None:
        """Go on with what came before ``epoch``, now that all handlers have restored what they restore."""
        self._no_epoch_yet = False
        run_file, history_file = self.output_dir / "run.json", self.output_dir / "history.json"
        if epoch > 1:
            if is_main() and self._started is None:  # this record is not in the checkpoint
                self._rows, self._started, self._seconds_before = _read_files(history_file, run_file)
            self._run["started"] = self._started or self._run["started"]
        elif is_main():
            for path in (run_file, history_file):
                keep_aside(path)
        self._rows = {number: row for number, row in sorted(self._rows.items()) if number < epoch}
        self._started = self._run["started"]
        if is_main():
            self._run["best"] = self._best()
            self._write_run("run.json")
            # an interrupt is no exception to the engine, and another handler may hide one from us
            weakref.finalize(self, _close, self._run, run_file, self._clock - self._seconds_before, os.getpid())

    def _add_loss(self, engine: Engine) -> None:
        self._losses += _loss_of(engine.state.output)
        self._epoch["seconds"] = [now - then for now, then in zip(_clocks(), self._epoch["clock"], strict=True)]

    def _end_epoch(self, engine: Engine) -> None:
        losses = gather([(float(loss), samples) for loss, samples in self._losses])
        samples = sum(count for _, count in losses)
        epoch = engine.state.epoch
        wall, processor = self._epoch.get("seconds", (0.0, 0.0))
        self._rows[epoch] = {
            "epoch": epoch,
            "train_loss": jsonable(sum(loss * count for loss, count in losses) / samples) if samples else None,
            "learning_rate": self._epoch["learning_rate"],
            "seconds": round(wall, 3),
            "processor_seconds": round(processor, 3),
            **{f"train_{name}": value for name, value in _numbers(engine.state.metrics).items()},
            **{key: value for key, value in self._rows.get(epoch, {}).items() if key.startswith("val_")},
        }
        self._write()

    def _add_validation(self, evaluator: Engine, trainer: Engine) -> None:
        epoch = trainer.state.epoch
        if epoch < 1 or self._no_epoch_yet:
            return  # a look at the untrained or the restored network belongs to no epoch of this run
        metrics = {f"val_{name}": value for name, value in _numbers(evaluator.state.metrics).items()}
        self._rows.setdefault(epoch, {"epoch": epoch}).update(metrics)
        if "train_loss" in self._rows[epoch]:  # else the epoch has not ended yet
            self._write()

    def _end(self, engine: Engine) -> None:
        if self._no_epoch_yet:
            if not self._rows:
                return  # nothing was trained, nothing restored
            self._take_up(engine.state.epoch + 1)
        self._run.update(status="finished", finished=now())
        self._write()

    def _end_evaluation(self, engine: Engine) -> None:
        self._run.update(status="finished", finished=now(), metrics=_numbers(engine.state.metrics))
        if is_main():
            self._write_run("evaluation.json")

    def _fail(self, engine: Engine, error: BaseException) -> None:
        if is_main() and not self._no_epoch_yet:
            self._run.update(status="failed", finished=now(), error=f"{type(error).__name__}: {error}")
            self._write_run("run.json")
        raise error  # ignite leaves that to whoever handles the event

    def _write(self) -> None:
        if is_main():
            self._run["best"] = self._best()
            self._write_run("run.json")
            write_json(self.output_dir / "history.json", {"epochs": list(self._rows.values())})

    def _write_run(self, file_name: str) -> None:
        self._run["seconds"] = round(self._seconds(), 3)
        write_json(self.output_dir / file_name, self._run)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._clock

    def _best(self) -> dict[str, Any] | None:
        """Return the best epoch so far, of equal ones the first."""
        name = self.key_metric or getattr(getattr(self.evaluator, "state", None), "key_metric_name", None)
        is_better = getattr(self.evaluator, "metric_cmp_fn", operator.gt)
        best: dict[str, Any] | None = None
        for row in self._rows.values():
            value = row.get(f"val_{name}")
            if value is not None and (best is None or is_better(value, best["value"])):
                best = {"metric": name, "value": value, "epoch": row["epoch"]}
        return best


def _clocks() -> tuple[float, float]:
    """Return the time, and what this process has computed so far, in seconds."""
    return time.monotonic(), time.process_time()


def _close(run: dict[str, Any], path: Path, clock: float, process: int) -> None:
    """Say of a run that nobody ended that it failed; not from a data loader's worker, which has a copy of it."""
    if run["status"] == "running" and os.getpid() == process and path.is_file():
        run.update(
            status="failed",
            finished=now(),
            error="ended early, see the log",
            seconds=round(time.monotonic() - clock, 3),
        )
        write_json(path, run)


def _read_files(history_file: Path, run_file: Path) -> tuple[dict[int, dict[str, Any]], str | None, float]:
    """Return rows, start and seconds of the run that is resumed, as far as its files can be read."""
    rows: dict[int, dict[str, Any]] = {}
    try:
        rows = {int(row["epoch"]): row for row in json.loads(history_file.read_text(encoding="utf-8"))["epochs"]}
        run = json.loads(run_file.read_text(encoding="utf-8"))
        return rows, str(run["started"]), float(run["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: the record of the epochs before is missing or damaged (%s).", history_file.parent, error)
        return rows, None, 0.0


def _loss_of(output: object) -> list[tuple[Tensor | float, int]]:
    """Return the mean loss of an iteration, left on its device, with the number of its samples; [] without a loss."""
    if isinstance(output, list):  # decollated: each sample has the mean loss of the batch
        samples, first = len(output), output[0] if output else None
    else:
        image = output.get("image") if isinstance(output, Mapping) else None
        samples, first = len(image) if isinstance(image, Tensor) else 1, output
    loss = first.get("loss") if isinstance(first, Mapping) else first
    if isinstance(loss, Tensor):
        return [(loss.detach().mean(), samples)]
    return [(float(loss), samples)] if isinstance(loss, (int, float)) else []


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that are single numbers."""
    numbers = {}
    for name, value in metrics.items():
        if isinstance(value, (Tensor, np.ndarray, np.generic)) and np.prod(value.shape) == 1:
            value = value.item()
        if isinstance(value, (int, float)):
            numbers[name] = jsonable(value)
    return numbers
