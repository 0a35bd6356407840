# SPDX-License-Identifier: Apache-2.0
"""Keeps the weights of the best epoch, as files that any PyTorch program can load."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from torch import Tensor

from monai_ext.distributed import barrier, is_main, unwrap
from monai_ext.handlers._checkpoint_file import keep_aside, remove_leftovers, write_state
from monai_ext.handlers._task_file import task_weights, write_task
from monai_ext.networks.checkpoints import read_state

logger = logging.getLogger(__name__)


class BestModel:
    """Write the network whenever the evaluator's key metric improves; of equal epochs the first wins.

    Two files, both loadable with ``weights_only=True``, on the CPU, with plain names: ``model.pt``, the full state
    dict, and ``trained.pt``, what training changed (trainable weights and the running statistics that go with
    them; see `monai_ext.networks.layers.trained_state`). A network that has ``save_task`` writes the second one
    itself, a ``.safetensors`` file with more in it. Without an evaluator, and when no epoch had a finite metric, the
    last epoch's network is written at the end.

    Attach it to the trainer after the `ValidationHandler` and before `RunCheckpoint`, which saves the best value
    (``trainer.state.best_model``): a resumed run then keeps or replaces the files as an uninterrupted one would.
    A ``model.pt`` that this run did not write is renamed to ``model_backup_<n>.pt`` before it is replaced.

    Args:
        save_dir: folder of the two files.
        network: the network that is trained; `DistributedDataParallel` and `torch.compile` are stripped off.
        evaluator: the engine that validates; its ``metric_cmp_fn`` says what is better, larger if it has none.
        key_metric: name of the metric; None takes the evaluator's own key metric.
        file_name: name of the full state dict.
        trained_file_name: name of the part that was trained.

    Example:
        >>> import tempfile
        >>> trainer = Engine(lambda engine, batch: None)
        >>> folder = tempfile.mkdtemp()
        >>> BestModel(folder, nn.Linear(1, 1)).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=1)
        >>> sorted(os.listdir(folder))
        ['model.pt', 'trained.pt']
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        network: nn.Module,
        evaluator: Engine | None = None,
        key_metric: str | None = None,
        file_name: str = "model.pt",
        trained_file_name: str = "trained.pt",
    ) -> None:
        self.paths = {"full": Path(save_dir) / file_name, "trained": Path(save_dir) / trained_file_name}
        self.network = network
        self.evaluator = evaluator
        self.key_metric = key_metric

    def attach(self, engine: Engine) -> None:
        """Compare when the trainer's epochs end."""
        state: Any = engine.state
        state.best_model = None
        if "best_model" not in engine.state_dict_user_keys:
            engine.state_dict_user_keys.append("best_model")
        engine.add_event_handler(Events.STARTED, self._tidy)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.keep_if_better)
        engine.add_event_handler(Events.COMPLETED, self.keep_last_if_none)

    def keep_if_better(self, engine: Engine) -> None:
        """Write the network if this epoch was validated and is the best so far."""
        metric = self._metric(engine.state.epoch)
        if metric is None or not math.isfinite(metric):
            return
        best = self._best(engine)
        if best is not None and best["metric"] is not None and not self._is_better(metric, best["metric"]):
            return
        self._write(engine, metric)
        logger.info("Epoch %d is the best so far (%.4f): %s", engine.state.epoch, metric, self.paths["full"])

    def keep_last_if_none(self, engine: Engine) -> None:
        """Write the last network if no epoch was the best, or if its file has been taken away."""
        if engine.state.epoch == 0 or (self._best(engine) is not None and self.paths["full"].exists()):
            return
        if self.evaluator is not None:
            logger.warning("%s: there is no best epoch; the last one is written.", self.paths["full"])
        self._write(engine, None)

    def _tidy(self, engine: Engine) -> None:
        if is_main():
            for path in self.paths.values():
                remove_leftovers(path)

    def _metric(self, epoch: int) -> float | None:
        """Return the key metric if the evaluator has just scored this epoch."""
        if self.evaluator is None or self.evaluator.state.epoch != epoch:
            return None
        name = self.key_metric or getattr(self.evaluator.state, "key_metric_name", None) or ""
        value = self.evaluator.state.metrics.get(name)
        return None if value is None else float(value)

    @staticmethod
    def _best(engine: Engine) -> dict[str, Any] | None:
        state: Any = engine.state
        return state.best_model

    def _is_better(self, metric: float, best: float) -> bool:
        compare = getattr(self.evaluator, "metric_cmp_fn", None)
        return metric > best if compare is None else bool(compare(metric, best))

    def _write(self, engine: Engine, metric: float | None) -> None:
        if is_main():
            self._write_files(is_first=self._best(engine) is None)
        state: Any = engine.state
        state.best_model = {"metric": metric, "epoch": state.epoch}
        barrier()

    def _write_files(self, is_first: bool) -> None:
        """Write the network; before its first time, another run's files are put aside."""
        network = unwrap(self.network)
        full = {name: _on_cpu(value) for name, value in network.state_dict().items()}
        if is_first:
            _keep_stranger(self.paths["trained"], task_weights(network))
            _keep_stranger(self.paths["full"], full)
        write_task(self.paths["trained"], network)
        write_state(self.paths["full"], full)


def _keep_stranger(path: Path, weights: dict[str, Any]) -> None:
    """Put another run's file aside; our own, left by a crash before the first checkpoint, has the same content."""
    if path.exists() and not _holds(path, weights):
        logger.info("The %s that was there is kept as %s.", path.name, keep_aside(path))


def _holds(path: Path, weights: dict[str, Any]) -> bool:
    try:
        found = read_state(path)
        return found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    except Exception:  # whatever it is, it is not what we are about to write
        return False


def _on_cpu(value: Any) -> Any:
    """Return a tensor that brings no larger storage into the file than its own."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
