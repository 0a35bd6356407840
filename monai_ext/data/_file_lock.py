# SPDX-License-Identifier: Apache-2.0
"""Locks that a killed process cannot leave behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def try_lock(file: FileIO) -> bool:
    """Lock an open file for this handle alone and say whether that worked; closing the file unlocks it.

    Windows has no such lock; there the answer is always yes, and two processes should not share a folder.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: FileIO) -> None:
    """Unlock for forked children too, which hold the same handle."""
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is inside with the same path, an empty file that stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            unlock(file)
