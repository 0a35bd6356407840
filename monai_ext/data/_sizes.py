# SPDX-License-Identifier: Apache-2.0
"""How much room there is, and sizes in words."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
SHARED_MEMORY = Path("/dev/shm")


def free_bytes(folder: Path) -> int:
    """Return what is left on the disk where a folder is or will be."""
    there = next(path for path in [folder, *folder.parents] if path.exists())
    return shutil.disk_usage(there).free


def free_memory() -> int | None:
    """Return the bytes of memory that processes may still share, None where that cannot be told."""
    limits = [free_bytes(SHARED_MEMORY)] if SHARED_MEMORY.is_dir() else []
    if MEMINFO.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text(encoding="ascii"))
        limits += [1024 * int(found[1])] if found else []
    return min(limits, default=None)


def size_text(size: float) -> str:
    """Return a number of bytes in words.

    Example:
        >>> size_text(19.2e9), size_text(400_000)
        ('19.2 GB', '0.4 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
