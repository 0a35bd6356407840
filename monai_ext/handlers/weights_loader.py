# SPDX-License-Identifier: Apache-2.0
"""Load a network's weights when an engine starts, and say clearly what is wrong if they do not fit."""

from __future__ import annotations

import logging
from pathlib import Path

import torch.nn as nn
from ignite.engine import Engine, Events

from monai_ext.distributed import unwrap
from monai_ext.errors import InputError
from monai_ext.handlers._task_file import load_task
from monai_ext.networks.checkpoints import check, read_state

logger = logging.getLogger(__name__)


class WeightsLoader:
    """Handler that loads a state dict, strictly, at the start of a run.

    With ``task`` it then loads the small file of that task (``tasks/<task>.pt`` or ``.safetensors`` beside the weights,
    as `BestModel` writes it) over the adapters and the decoder: one frozen encoder serves many tasks.

    Args:
        path: ``.pt`` or ``.safetensors``; loaded without any way for the file to run code.
        network: the network, or its `DistributedDataParallel`.
        task: name of a task, or None for what ``path`` holds.

    Raises:
        InputError: when the run starts, if a file is missing or belongs to another network.

    Example:
        >>> WeightsLoader("models/model.pt", nn.Linear(1, 1)).attach(Engine(lambda engine, batch: batch))
    """

    def __init__(self, path: str | Path, network: nn.Module, task: str | None = None) -> None:
        self.path = Path(path)
        self.network = network
        self.task = task

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        network = unwrap(self.network)
        if not self.path.is_file():
            raise InputError(
                f"{self.path}: there are no weights; train first (`monai.bundle run training ...`), import published "
                "ones (`python -m monai_ext convert ...`), or name a file with --ckpt_path."
            )
        state = read_state(self.path)
        check(state, network.state_dict(), str(self.path))
        network.load_state_dict(state)
        logger.info("loaded %s", self.path)
        if self.task is not None:
            load_task(self.path.parent / "tasks", self.task, network)
            logger.info("switched to task %s", self.task)
