# SPDX-License-Identifier: Apache-2.0
"""Keeps what the best epoch has learned in a small file that is bound to what it was learned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch.nn as nn
from ignite.engine import Engine, Events

from monai_ext.distributed import is_main, unwrap


class SavesRegistration(Protocol):
    """A network that writes what it has learned, bound to its frozen part."""

    def save_registration(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file."""


class BoundPart:
    """Write the network's bound file whenever `BestModel` has written the whole network.

    The ``trained.pt`` of `BestModel` has the same weights and does not say which frozen embedder they need; this file
    does, and a wrong one is refused. Attach it after `BestModel` and before `RunCheckpoint`.

    Args:
        path: of the file, ending in ``.safetensors``.
        network: has ``save_registration``; `DistributedDataParallel` and `torch.compile` are stripped off.

    Example:
        >>> class Net(nn.Module):
        ...     def save_registration(self, path): print("written to", path)
        >>> trainer = Engine(lambda engine, batch: None)
        >>> trainer.state.best_model = {"epoch": 1}
        >>> BoundPart("part.safetensors", Net()).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=1)
        written to part.safetensors
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network
        self._written = 0

    def attach(self, engine: Engine) -> None:
        """Look after each epoch of the trainer, and at the end."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_if_best)
        engine.add_event_handler(Events.COMPLETED, self._write_if_best)

    def _write_if_best(self, engine: Engine) -> None:
        state: Any = engine.state
        best = state.best_model
        if best is None or best["epoch"] != state.epoch or self._written == state.epoch:
            return
        self._written = state.epoch
        if is_main():
            network: Any = unwrap(self.network)
            network.save_registration(self.path)
