# SPDX-License-Identifier: Apache-2.0
"""Reading and writing state so that neither a crash nor a full disk costs the last good file."""

from __future__ import annotations

import logging
import os
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.files import atomic_write

logger = logging.getLogger(__name__)


def previous_of(path: Path) -> Path:
    """Return where the last but one file is kept: ``checkpoint_previous.pt`` for ``checkpoint.pt``."""
    return path.with_name(f"{path.stem}_previous{path.suffix}")


def write_state(path: Path, content: Mapping[str, Any], keep_previous: bool = False) -> None:
    """Write with `torch.save` into a temporary file, sync, rename.

    Raises:
        InputError: the disk is full or the folder cannot be written; the file that was there is still there.
    """
    try:
        with atomic_write(path) as temporary:
            with open(temporary, "wb") as file:  # given a name instead of a file, torch writes that name into it
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            if keep_previous and path.exists():
                os.replace(path, previous_of(path))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: could not be written ({_first_line(error)}); the last good file is kept. "
            "Make room or mend the folder's permissions, then start again with --resume true."
        ) from error
    _sync_folder(path.parent)


def read_state(path: Path) -> Any:
    """Read what `write_state` wrote, without running code from the file; any damage raises an exception."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch itself does not compare the checksums
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def read_newest(path: Path) -> tuple[Any, bool]:
    """Return the newest readable state and whether it is the previous one because the newest is damaged or missing.

    Raises:
        FileNotFoundError: there is no file at all.
        InputError: there are files, but none can be read.
    """
    candidates = [file for file in (path, previous_of(path)) if file.exists()]
    if not candidates:
        raise FileNotFoundError(path)
    reasons = []
    for file in candidates:
        try:
            return read_state(file), file != path
        except Exception as error:  # pickle, zip, torch and the system have a dozen ways to say "damaged"
            reasons.append(f"{file}: {_first_line(error)}")
            logger.warning("%s cannot be read (%s).", file, _first_line(error))
    raise InputError(
        f"{'; '.join(reasons)}: no checkpoint can be read; start without --resume to train anew (the files are kept)."
    )


def keep_aside(path: Path, label: str = "backup") -> Path | None:
    """Rename an existing file to ``<stem>_<label>_<n>``, with the first free number; return the new path."""
    if not path.exists():
        return None
    number = 1
    while (target := path.with_name(f"{path.stem}_{label}_{number}{path.suffix}")).exists():
        number += 1
    os.replace(path, target)
    return target


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of a killed `write_state`, each as large as a checkpoint."""
    for file in path.parent.glob(f".tmp-*-{path.name}"):
        file.unlink(missing_ok=True)


def plain(value: Any, where: str) -> Any:
    """Return ``value`` with NumPy numbers as Python numbers, so that ``weights_only`` loading takes it.

    Raises:
        TypeError: something else is in it; better at the first save than at the first resume.
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, Tensor, torch.dtype, torch.device)):
        return value.as_subclass(Tensor) if isinstance(value, Tensor) else value
    if isinstance(value, (list, tuple)):
        items = [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Mapping):
        pairs = {plain(key, where): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
        if isinstance(value, Counter):  # what MultiStepLR keeps its milestones in
            return Counter(pairs)
        return OrderedDict(pairs) if isinstance(value, OrderedDict) else pairs
    raise TypeError(
        f"{where} is a {type(value).__name__}; the state of a checkpointed object may hold tensors, numbers, "
        "strings, lists, tuples and dicts only."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot
        logger.debug("%s cannot be synced.", folder)
    finally:
        os.close(handle)
