# SPDX-License-Identifier: Apache-2.0
"""What a run has to save of a network most of which is frozen, and proof that the rest is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn

from monai_ext.errors import InputError
from monai_ext.networks.layers.trained_state import load_trained_state, trained_names, trained_state


class TrainedPart:
    """The trained part of a network as something with a state, in place of the network in a checkpoint.

    The state holds what `trained_state` gives, and a hash of everything else. A run whose frozen encoder and teacher
    take gigabytes then saves a few megabytes an epoch, and goes on only with the very same encoder and teacher.

    Args:
        network: whose frozen weights are loaded by the time a state is asked for or given.

    Example:
        >>> network = nn.Sequential(nn.Linear(9, 9).requires_grad_(False), nn.Linear(9, 1))
        >>> part = TrainedPart(network)
        >>> sorted(part.state_dict()["weights"])
        ['1.bias', '1.weight']
        >>> part.load_state_dict(part.state_dict())
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._frozen: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return ``weights``, copies on the CPU, and ``frozen``, the hash of the rest."""
        return {"weights": trained_state(self.network), "frozen": self._hash()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            InputError: the frozen rest, or what trains, is another one; nothing has been changed then.
        """
        if state["frozen"] != self._hash():
            raise InputError(
                f"its frozen weights are others (hash {state['frozen'][:12]}, here {self._hash()[:12]}); give the "
                "weights of encoder and teacher that the run was started with"
            )
        load_trained_state(self.network, state["weights"], "the checkpoint")

    def _hash(self) -> str:
        if self._frozen is None:  # it cannot change, and hashing gigabytes takes seconds
            self._frozen = _hash_of(self.network, trained_names(self.network))
        return self._frozen


def _hash_of(network: nn.Module, left_out: set[str]) -> str:
    total = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        if name not in left_out:
            weight = weight.detach().cpu().contiguous()
            total.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            total.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
