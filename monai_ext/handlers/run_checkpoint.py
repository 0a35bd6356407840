# SPDX-License-Identifier: Apache-2.0
"""Saves the whole state of a run after each epoch, and goes on from it after a crash."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from ignite.engine import Engine, Events

from monai_ext.distributed import barrier, is_main, unwrap
from monai_ext.errors import InputError
from monai_ext.handlers._checkpoint_file import (
    keep_aside,
    plain,
    previous_of,
    read_newest,
    remove_leftovers,
    write_state,
)

logger = logging.getLogger(__name__)

FORMAT = "monai_ext.run_checkpoint.1"
ENGINE_FIELDS = ("best_metric", "best_metric_epoch")
MOST_DIFFERENCES = 3


class RunCheckpoint:
    """Save everything that a run needs to go on, whole or not at all, and load it again.

    A run killed at any moment and started again with ``resume=True`` ends, on a CPU, with the weights of an
    uninterrupted run bit for bit, provided that an `EpochSeed` seeds its epochs.

    - **When.** At the end of every ``interval``-th epoch and of the last one. *Attach it last*: the handlers
      before it (validation, learning rate, run record, best model) then have finished their epoch.
    - **What.** The state of ``objects``; the trainer's epoch, iteration, best metric, gradient scaler, and whatever
      handlers keep in ``trainer.state`` and list in ``trainer.state_dict_user_keys`` (`BestModel` does).
    - **How.** Written beside the file, synced, renamed. The last but one stays as ``checkpoint_previous.pt`` and
      is used, with a warning, when the newest is damaged, which is then kept as ``checkpoint_damaged_<n>.pt``.
    - **A new run in an old folder** (``resume=False``) renames the checkpoint it finds to
      ``checkpoint_backup_<n>.pt`` at its start. It does so at the start, so that a crash in its first epoch never
      leads to resuming the older run by mistake.
    - **Several processes.** Rank 0 writes, all load, and they wait for each other.

    Args:
        save_dir: folder of the checkpoint.
        objects: name -> something with ``state_dict`` and ``load_state_dict`` that give and take tensors, numbers,
            strings, lists and dicts. Networks are stripped of `DistributedDataParallel`. Of an engine (the
            evaluator) the best metric and its epoch are kept.
        resume: go on from the checkpoint; without one, start anew. ``"true"`` and ``"false"`` count as booleans,
            since that is how the command line passes them.
        interval: save after every so many epochs.
        fingerprint: the knobs that make a checkpoint fit a run, name -> JSON-like value. All must be equal.
        file_name: name of the file.

    Raises:
        ValueError: ``interval`` is less than 1, or ``resume`` is neither true nor false.
        InputError: when the run starts: the checkpoint is of another architecture or other knobs, or no file
            can be read; nothing has been loaded or written then. During the run: the disk is full.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(1, 1)
        >>> trainer = Engine(lambda engine, batch: None)
        >>> RunCheckpoint(tempfile.mkdtemp(), {"network": net}, resume=True).attach(trainer)
        >>> trainer.run([0], max_epochs=2).epoch
        2
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        objects: Mapping[str, Any],
        resume: bool | str = False,
        interval: int = 1,
        fingerprint: Mapping[str, Any] | None = None,
        file_name: str = "checkpoint.pt",
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}.")
        if str(resume).lower() not in ("true", "false"):
            raise ValueError(f"resume must be true or false, got {resume!r}.")
        self.path = Path(save_dir) / file_name
        self.objects = dict(objects)
        self.resume = str(resume).lower() == "true"
        self.interval = interval
        self.fingerprint = plain(dict(fingerprint or {}), "fingerprint")
        self._saved_epoch = 0

    def attach(self, engine: Engine) -> None:
        """Load when the engine starts; save when its epochs end and, after an early stop, when it completes."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save_if_due)
        engine.add_event_handler(Events.COMPLETED, self.save_stopped)

    def start(self, engine: Engine) -> None:
        """Resume, or put an older run's files aside."""
        if is_main():
            remove_leftovers(self.path)
        if self.resume:
            self._resume(engine)
        elif is_main():
            self._put_older_run_aside()
        barrier()

    def save_if_due(self, engine: Engine) -> None:
        """Save after every ``interval``-th epoch and after the last."""
        if engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs:
            self.save(engine)

    def save_stopped(self, engine: Engine) -> None:
        """Save if the engine was stopped early, unless that was in the middle of an epoch."""
        state = engine.state
        if state.epoch > self._saved_epoch and state.iteration == state.epoch * (state.epoch_length or 0):
            self.save(engine)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint now (rank 0); the others wait."""
        if is_main():
            write_state(self.path, self._content(engine), keep_previous=True)
        self._saved_epoch = engine.state.epoch
        barrier()

    def _content(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "scaler", None)
        fields = ("epoch", "iteration", "epoch_length", "max_epochs", *ENGINE_FIELDS, *engine.state_dict_user_keys)
        content = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "trainer": {name: getattr(engine.state, name, None) for name in fields},
            "scaler": None if scaler is None else scaler.state_dict(),
            "objects": {name: _state_of(thing) for name, thing in self.objects.items()},
        }
        return {name: plain(value, name) for name, value in content.items()}

    def _resume(self, engine: Engine) -> None:
        try:
            content, fell_back = read_newest(self.path)
        except FileNotFoundError:
            logger.info("%s: there is no checkpoint yet; training starts anew.", self.path)
            return
        self._check(content)
        barrier()  # all have read before a file is renamed
        if fell_back:
            # out of the way of the next save, which would put it in place of the good one
            damaged = keep_aside(self.path, "damaged") if is_main() else None
            logger.warning(
                "%s%s: training goes on from the checkpoint before it, of epoch %d.",
                self.path,
                " is missing" if damaged is None else f" was damaged and is kept as {damaged.name}",
                content["trainer"]["epoch"],
            )
        for name, thing in self.objects.items():
            _load(thing, content["objects"][name], f"{self.path}: {name}")
        self._restore_engine(engine, content)

    def _check(self, content: Any) -> None:
        """Refuse a checkpoint that does not fit, before anything is loaded."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(
                f"{self.path}: is not a checkpoint of a run; rename it, or start without --resume to keep it as a "
                "backup."
            )
        differences = _different_knobs(content["fingerprint"], self.fingerprint)
        names = sorted(set(content["objects"]) ^ set(self.objects))
        differences += [f"{name} is in only one of the two" for name in names]
        for name, thing in self.objects.items():
            if isinstance(thing, nn.Module) and name in content["objects"]:
                differences += _different_weights(name, content["objects"][name], _state_of(thing))
        if differences:
            more = len(differences) - MOST_DIFFERENCES
            raise InputError(
                f"{self.path}: belongs to another run: {'; '.join(differences[:MOST_DIFFERENCES])}"
                f"{f'; and {more} more differences' if more > 0 else ''}. Use the same settings, another folder, or "
                "start without --resume (the checkpoint is then kept as a backup)."
            )

    def _restore_engine(self, engine: Engine, content: Mapping[str, Any]) -> None:
        state: Any = engine.state
        saved = content["trainer"]
        state.epoch = self._saved_epoch = saved["epoch"]
        state.iteration = saved["iteration"]
        if state.epoch_length not in (None, saved["epoch_length"]):
            state.iteration = state.epoch * state.epoch_length
            logger.warning(
                "%s: was written with %s batches an epoch, now there are %s; the result will differ from that of an "
                "uninterrupted run.",
                self.path,
                saved["epoch_length"],
                state.epoch_length,
            )
        for name in (*ENGINE_FIELDS, *engine.state_dict_user_keys):
            if name in saved:
                setattr(state, name, saved[name])
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and content["scaler"] is not None:
            scaler.load_state_dict(content["scaler"])
        self._tell(state.epoch, state.max_epochs, saved["max_epochs"])

    def _tell(self, epoch: int, max_epochs: int, saved_max_epochs: int) -> None:
        if max_epochs != saved_max_epochs:
            logger.warning(
                "max_epochs was %s and is now %s; the learning-rate schedule goes on as it was first planned.",
                saved_max_epochs,
                max_epochs,
            )
        if epoch >= max_epochs:
            logger.info("%s: all %d epochs are done; there is nothing left to train.", self.path, max_epochs)
        else:
            logger.info("%s: training goes on with epoch %d of %d.", self.path, epoch + 1, max_epochs)

    def _put_older_run_aside(self) -> None:
        newest = self.path if self.path.exists() else previous_of(self.path)
        backup = keep_aside(newest, "backup")
        if backup is not None:
            previous_of(self.path).unlink(missing_ok=True)
            logger.info(
                "An older run's checkpoint is kept as %s; to go on with that run, stop, rename it to %s and add "
                "--resume true.",
                backup,
                self.path.name,
            )


def _state_of(thing: Any) -> Any:
    if isinstance(thing, Engine):
        return {name: getattr(thing.state, name, None) for name in ENGINE_FIELDS}
    return (unwrap(thing) if isinstance(thing, nn.Module) else thing).state_dict()


def _load(thing: Any, state: Any, where: str) -> None:
    if isinstance(thing, Engine):
        for name, value in state.items():
            setattr(thing.state, name, value)
        return
    try:
        (unwrap(thing) if isinstance(thing, nn.Module) else thing).load_state_dict(state)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where} does not fit this run ({str(error).strip().splitlines()[0]}); use the same settings, or start "
            "without --resume (the checkpoint is then kept as a backup)."
        ) from error


def _different_knobs(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Say where two fingerprints differ; a tuple equals a list, as JSON knows only one of them."""

    def show(knobs: Mapping[str, Any], name: str) -> str:
        return json.dumps(knobs[name], default=str) if name in knobs else "missing"

    pairs = [(name, show(saved, name), show(own, name)) for name in dict.fromkeys([*own, *saved])]
    return [f"{name} is {there} there and {here} here" for name, there, here in pairs if there != here]


def _different_weights(name: str, saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    texts = [f"{name}.{key} is missing there" for key in own if key not in saved]
    texts += [f"{name}.{key} is missing here" for key in saved if key not in own]
    for key, value in own.items():
        shapes = getattr(saved.get(key), "shape", None), getattr(value, "shape", None)
        if key in saved and shapes[0] != shapes[1]:
            texts.append(f"{name}.{key} is {_sides(shapes[0])} there and {_sides(shapes[1])} here")
    return texts


def _sides(shape: Any) -> str:
    return "x".join(map(str, shape)) or "a number" if shape is not None else "no tensor"
