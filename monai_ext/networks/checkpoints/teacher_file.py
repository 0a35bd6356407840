# SPDX-License-Identifier: Apache-2.0
"""A teacher's weights as a file that says under which licence they may be used."""

from __future__ import annotations

from pathlib import Path

import torch.nn as nn

from monai_ext.errors import InputError
from monai_ext.files import atomic_write

SUFFIX = ".safetensors"
FORMAT = "monai_ext.teacher.1"


def save_teacher(network: nn.Module, path: str | Path, licence: str = "") -> None:
    """Write a teacher's state as ``.safetensors``, whole or not at all, with the licence it inherits.

    Args:
        network: the teacher; if one of its parts has a ``licence`` and none is given here, that one is written.
        path: of the file.
        licence: text to be kept with the weights.

    Raises:
        InputError: another ending.

    Example:
        >>> save_teacher(teacher, "models/image_teacher.safetensors")  # doctest: +SKIP
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: must end in {SUFFIX}, which keeps the licence with the weights.")
    licence = licence or licence_of(network)
    state = {name: weight.detach().cpu().clone().contiguous() for name, weight in network.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata={"format": FORMAT, "licence": licence})


def licence_of(network: nn.Module) -> str:
    """Return the first ``licence`` that the network or one of its parts has; empty if there is none.

    Example:
        >>> from monai_ext.networks.nets.resnet_sk import build_resnet_sk
        >>> licence_of(nn.Sequential(build_resnet_sk("small")))
        ''
    """
    return next((str(licence) for part in network.modules() if (licence := getattr(part, "licence", ""))), "")


def read_licence(path: str | Path) -> str | None:
    """Return the licence that `save_teacher` wrote; None for a file that it did not write."""
    if Path(path).suffix != SUFFIX:
        return None
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        notes = dict(file.metadata() or {})
    return notes.get("licence", "") if notes.get("format") == FORMAT else None
