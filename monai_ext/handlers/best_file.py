# SPDX-License-Identifier: Apache-2.0
"""Keeps what a run is for, as of its best epoch, in a file of its own kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import torch.nn as nn
from ignite.engine import Engine

from monai_ext.distributed import unwrap
from monai_ext.handlers._checkpoint_file import keep_aside
from monai_ext.handlers.best_model import BestModel, logger


class SavesNetwork(Protocol):
    """Writes what matters of a network, whole or not at all."""

    def __call__(self, network: nn.Module, path: Path) -> None:
        """Write ``path``."""


class BestFile(BestModel):
    """`BestModel` for networks of which only a part is wanted, such as an expert without its teacher and head.

    One file, replaced whenever the evaluator's key metric improves, as `BestModel` replaces its two. A file that this
    run did not write is renamed to ``<name>_backup_<n>`` before it is replaced.

    Args:
        path: of the file.
        network: the network that is trained; `DistributedDataParallel` and `torch.compile` are stripped off.
        save: writes the part, called as ``save(network, path)``.
        evaluator: the engine that validates; its ``metric_cmp_fn`` says what is better, larger if it has none.
        key_metric: name of the metric; None takes the evaluator's own key metric.

    Example:
        >>> import tempfile
        >>> trainer = Engine(lambda engine, batch: None)
        >>> path = Path(tempfile.mkdtemp()) / "bias.txt"
        >>> BestFile(path, nn.Linear(1, 2), lambda network, path: path.write_text("2")).attach(trainer)
        >>> _ = trainer.run([0], max_epochs=1)
        >>> path.read_text(encoding="utf-8")
        '2'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        network: nn.Module,
        save: SavesNetwork,
        evaluator: Engine | None = None,
        key_metric: str | None = None,
    ) -> None:
        super().__init__(Path(path).parent, network, evaluator, key_metric, file_name=Path(path).name)
        self.paths = {"full": Path(path)}
        self.save = save

    def _write_files(self, is_first: bool) -> None:
        path = self.paths["full"]
        if is_first and path.exists():
            logger.info("The %s that was there is kept as %s.", path.name, keep_aside(path))
        self.save(unwrap(self.network), path)
