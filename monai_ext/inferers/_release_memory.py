# SPDX-License-Identifier: Apache-2.0
"""Gives memory that was freed back to the system, where the C library would keep it."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def release_memory() -> None:
    """Let glibc return what lies free in its heap; elsewhere nothing happens.

    Passes over tiles of different sizes leave holes that the next one does not fit, so that a process grows beyond what
    it ever needs at once. It takes milliseconds, a pass seconds.

    Example:
        >>> release_memory()
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    """Return glibc's ``malloc_trim``, None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library, as in Alpine Linux
        return None
