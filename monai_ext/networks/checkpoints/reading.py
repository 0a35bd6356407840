# SPDX-License-Identifier: Apache-2.0
"""Reads weights from files without letting a file run code."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.common import State


def read_state(path: str | Path) -> State:
    """Read a state dict from ``.pt``, ``.pth`` or ``.safetensors``, with no way for the file to run code.

    What training scripts wrap around it (``model``, ``state_dict``, ``network``; ``module.`` before each name) is
    taken off.

    Raises:
        InputError: the file is missing, empty, cut short, no weights at all, or asks for code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give the path of the weights.")
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty (0 bytes); fetch it again.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in ("model", "state_dict", "network"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds a {type(content).__name__}, must be a state dict (name -> tensor).")
    other = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        kind = type(content[other]).__name__
        raise InputError(f"{path}: entry {other!r} is a {kind}, must be a tensor; give a state dict.")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): weight for name, weight in content.items()}
    return dict(content)


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no readable safetensors file ({_first_line(error)}); fetch it again.") from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints about file formats, which our message replaces
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # anything at all: the unpickler raises KeyError, EOFError ... on what is no checkpoint
        text = str(error)
        if "unsupported global" in text.lower() or "unsupported class" in text.lower():
            reason = "asks for Python code to be run, which is refused; have its author save a plain state dict"
        elif "TorchScript" in text:
            reason = "is an exported TorchScript program; give the state dict that it was made from"
        else:
            reason = "is no readable PyTorch checkpoint (a text or web page, or cut short?); fetch it again"
        raise InputError(f"{path}: {reason}.") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
