# SPDX-License-Identifier: Apache-2.0
"""What a run was made with: bundle, command, versions, hardware, parameters."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from monai_ext import __version__
from monai_ext.distributed import world_size
from monai_ext.files import sha256_of

_PACKAGES = {"torch": "torch", "monai": "monai", "ignite": "pytorch-ignite", "numpy": "numpy"}


def now() -> str:
    """Return the time in ISO form, with the offset from UTC, to the second."""
    return datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")


def bundle_identity(bundle: str | Path) -> dict[str, Any]:
    """Return ``bundle`` and ``bundle_version`` for a bundle's folder, or for a name, whose version is unknown."""
    metadata = Path(bundle) / "configs" / "metadata.json"
    if not metadata.is_file():
        return {"bundle": str(bundle), "bundle_version": None}
    try:
        bundle_version = json.loads(metadata.read_text(encoding="utf-8")).get("version")
    except (ValueError, AttributeError):  # a run is not to die of a record
        bundle_version = None
    return {"bundle": Path(bundle).resolve().name, "bundle_version": bundle_version}


def command_line() -> str:
    """Return the command that started this process, such as a shell would take it."""
    words = list(sys.orig_argv)
    return shlex.join([Path(words[0]).name, *words[1:]]) if words else ""


def config_files_of(words: Sequence[str] | None = None) -> list[str]:
    """Return the files behind ``--config_file`` of a command line, by default of this process's.

    Example:
        >>> config_files_of(["run", "--config_file", "['a.json', 'b.json']", "--seed", "1"])
        ['a.json', 'b.json']
    """
    words = list(sys.argv if words is None else words)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.lstrip("-").replace("-", "_") != "config_file" or not word.startswith("-"):
            continue
        value = value if equals else " ".join(words[index + 1 : index + 2])
        return [part for item in value.strip("[]()").split(",") if (part := item.strip().strip("'\""))]
    return []


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide about results."""
    found = {"python": platform.python_version(), "monai_ext": __version__}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def hardware() -> dict[str, Any]:
    """Return processor, usable cores, GPUs and number of processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpu": _processor(), "cores": cores, "gpus": gpus, "processes": world_size()}


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Return how many parameters are trained and how many there are.

    Example:
        >>> count_parameters(nn.Linear(2, 3).requires_grad_(False))
        (0, 9)
    """
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def named_files(knobs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of each file that a setting names, such as weights to start from and a list of cases.

    A name says little a year later, when other weights may lie there.

    Example:
        >>> named_files({"pretrained": "no such file", "batch_size": 4, "dataset_dir": None})
        {}
    """
    found = {}
    for knob, value in knobs.items():
        paths = value if isinstance(value, (list, tuple)) else [value]
        for path in paths:
            if isinstance(path, (str, Path)) and str(path) not in found and (about := _contents(path)):
                found[str(path)] = {"knob": knob, **about}
    return found


def jsonable(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: what is no number, text, list or mapping as text, NaN as None.

    Example:
        >>> jsonable({"device": torch.device("cpu"), "size": (8, 8), "loss": float("nan")})
        {'device': 'cpu', 'size': [8, 8], 'loss': None}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return str(value)


def _contents(path: str | Path) -> dict[str, Any] | None:
    try:
        if not os.path.isfile(path):
            return None
        return {"bytes": os.path.getsize(path), "sha256": sha256_of(path)}
    except (OSError, ValueError):  # a text that no file can be called, or a file that cannot be read
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()
