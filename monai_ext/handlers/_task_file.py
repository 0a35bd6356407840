# SPDX-License-Identifier: Apache-2.0
"""The small file of a task beside the whole weights: a plain state dict, or one that the network writes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch.nn as nn
from torch import Tensor

from monai_ext.handlers._checkpoint_file import write_state
from monai_ext.networks.checkpoints import read_state
from monai_ext.networks.layers.trained_state import load_trained_state, trained_state


@runtime_checkable
class HasTask(Protocol):
    """A network that knows what belongs to a task, such as frozen experts and the encoder that they need."""

    def task_state(self) -> dict[str, Tensor]:
        """Return all weights that belong to it."""

    def save_task(self, path: str | Path) -> None:
        """Write them to a ``.safetensors`` file."""

    def load_task(self, path: str | Path) -> nn.Module:
        """Load what `save_task` wrote."""


def task_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return what the file of a network's task holds."""
    return network.task_state() if isinstance(network, HasTask) else trained_state(network)


def write_task(path: Path, network: nn.Module) -> None:
    """Write the file, whole or not at all."""
    if isinstance(network, HasTask):
        network.save_task(path)
    else:
        write_state(path, trained_state(network))


def load_task(folder: Path, task: str, network: nn.Module) -> None:
    """Load ``<task>.pt``, or ``<task>.safetensors`` where the network reads its own, over what the network has.

    Raises:
        InputError: there is no such file, or it belongs to another network.
    """
    if isinstance(network, HasTask):
        network.load_task(folder / f"{task}.safetensors")
        return
    file = folder / f"{task}.pt"
    load_trained_state(network, read_state(file), str(file))
