# SPDX-License-Identifier: Apache-2.0
"""The part of a network's state that training changes: a few megabytes beside a large frozen encoder."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError


def trained_names(network: nn.Module) -> set[str]:
    """Return the names of all trainable parameters and of the buffers that change with them.

    Buffers count when their own module has trainable parameters: the running statistics of a batch normalisation
    that is trained belong to the task, those of a frozen one do not.

    Example:
        >>> sorted(trained_names(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).requires_grad_(False))))
        ['0.bias', '0.weight']
    """
    names = {name for name, weight in network.named_parameters() if weight.requires_grad}
    kept = set(network.state_dict())
    for prefix, part in network.named_modules():
        if any(weight.requires_grad for weight in part.parameters(recurse=False)):
            names |= {f"{prefix}.{name}" if prefix else name for name, _ in part.named_buffers(recurse=False)}
    return names & kept


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """Return copies, on the CPU, of everything that training changes."""
    wanted = trained_names(network)
    return {
        name: value.detach().cpu().clone().contiguous()
        for name, value in network.state_dict().items()
        if name in wanted
    }


def load_trained_state(network: nn.Module, state: dict[str, Tensor], source: str = "the given state") -> None:
    """Load what `trained_state` returned; the frozen rest of ``network`` is not touched.

    Raises:
        InputError: names or shapes differ from what this network trains.
    """
    wanted, own = trained_names(network), network.state_dict()
    missing, extra = sorted(wanted - set(state)), sorted(set(state) - wanted)
    shapes = [n for n in wanted & set(state) if state[n].shape != own[n].shape]
    if missing or extra or shapes:
        raise InputError(
            f"{source} does not fit this network: {len(missing)} weights are missing {missing[:2]}, {len(extra)} are "
            f"unexpected {extra[:2]}, {len(shapes)} have another shape {sorted(shapes)[:2]}; use the backbone, "
            "tuning and number of classes it was trained with."
        )
    network.load_state_dict(state, strict=False)
