# SPDX-License-Identifier: Apache-2.0
"""Load low-rank experts when a training starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch.nn as nn
from ignite.engine import Engine, Events

from monai_ext.distributed import unwrap


class HasExperts(Protocol):
    """A network that takes experts from files."""

    def load_experts(self, files: Mapping[str, str | Path | None] | None) -> nn.Module:
        """Load a file for each level that has one."""


class ExpertsLoader:
    """Handler for a trainer: the network's experts, from a file for each level, at the start of a run.

    Attach it before `RunCheckpoint`: a resumed run then goes on with what its checkpoint holds. The frozen weights that
    the experts belong to must be there by then.

    Args:
        network: one with ``load_experts``, or its `DistributedDataParallel`.
        files: level -> file; a level without one is left untrained, and told in the log.

    Raises:
        InputError: when the run starts, if a file is missing or belongs to another network.

    Example:
        >>> ExpertsLoader(nn.Identity(), {"pixel": "expert_pixel.safetensors"}).attach(Engine(lambda engine, batch: 0))
    """

    def __init__(self, network: HasExperts | nn.Module, files: Mapping[str, str | Path | None]) -> None:
        self.network = network
        self.files = files

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        unwrap(self.network).load_experts(self.files)  # type: ignore[arg-type, operator]
