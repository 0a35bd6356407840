# SPDX-License-Identifier: Apache-2.0
"""Names for prepared data that change whenever the file or the preparation changes."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from monai.data.image_reader import ImageReader

GATHERED = ("filenames",)


def describe(part: Any) -> Any:
    """Describe an object by its class and its settings, all the way down, the same in every process.

    Addresses, random states and what transforms and readers note down while they work are left out: none of them says
    what the object does.

    Example:
        >>> describe({"keys": ["image"], "lower": 0.5})
        ['dict', [["'keys'", ['list', ["'image'"]]], ["'lower'", '0.5']]]
    """
    return _describe(part, ())


def file_identity(path: str | Path) -> list[tuple[str, int, int]]:
    """Return (absolute path, bytes, time of last change) of the file, or of each file in the folder.

    Files of the same stem count too: an ``.mhd`` keeps its voxels in a second file.
    """
    path = Path(path).absolute()
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{_escape(path.stem)}.*")
    stats = [(str(file), file.stat()) for file in sorted({path, *files}) if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def digest(*parts: Any) -> str:
    """Return a short hexadecimal hash of the parts' text."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _describe(part: Any, above: tuple[int, ...]) -> Any:
    if id(part) in above or isinstance(part, np.random.RandomState | np.random.Generator | torch.Generator):
        return type(part).__name__
    above = (*above, id(part))
    if part is None or isinstance(part, str | bytes | int | float | complex):
        return repr(part)
    if isinstance(part, Mapping):
        pairs = sorted(([_describe(key, above), _describe(value, above)] for key, value in part.items()), key=str)
        return [type(part).__name__, pairs]
    if isinstance(part, Sequence | Set):
        inner = [_describe(value, above) for value in part]
        return [type(part).__name__, sorted(inner, key=str) if isinstance(part, Set) else inner]
    if isinstance(part, np.ndarray | torch.Tensor):
        array = np.asarray(part)
        return [
            "array",
            str(array.dtype),
            array.shape,
            hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
        ]
    return _describe_object(part, above)


def _describe_object(part: Any, above: tuple[int, ...]) -> Any:
    if isinstance(part, FunctionType):  # the name of a lambda says nothing, its code does
        code = part.__code__
        inner = _describe([cell.cell_contents for cell in part.__closure__ or ()], above)
        return [part.__module__, part.__qualname__, code.co_code.hex(), _without_addresses(code.co_consts), inner]
    if isinstance(part, type):
        return [part.__module__, part.__qualname__]
    name = f"{type(part).__module__}.{type(part).__qualname__}"
    settings = _settings(part)
    return [name, _describe(settings, above) if settings else _without_addresses(part)]


def _settings(part: Any) -> dict[str, Any]:
    """Return an object's attributes without what it gathers in use: a thread's state, a reader's last files."""
    gathered = GATHERED if isinstance(part, ImageReader) else ()
    found = getattr(part, "__dict__", None) or {}
    return {name: x for name, x in found.items() if name not in gathered and not isinstance(x, threading.local)}


def _without_addresses(part: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(part))


def _escape(stem: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", stem)
