# SPDX-License-Identifier: Apache-2.0
"""Freed memory goes back to the system when it is asked for, and asking does no harm where that is not possible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_ext.inferers import _release_memory
from monai_ext.inferers._release_memory import release_memory

HOLES = """
import ctypes
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks.harness import memory_mb
from monai_ext.inferers._release_memory import release_memory

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = [libc.malloc(60_000) for _ in range(4000)]
for piece in pieces:
    ctypes.memset(piece, 1, 60_000)
for piece in pieces[:-1]:  # the last one keeps the heap from shrinking by itself
    libc.free(piece)
before = memory_mb("VmRSS")
release_memory()
print(before - memory_mb("VmRSS"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps what was freed; run it on Linux")
def test_what_was_freed_goes_back_to_the_system() -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", HOLES, root], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 200  # of 240 MB


def test_without_such_a_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_release_memory.sys, "platform", "darwin")
    _release_memory._trim.cache_clear()
    release_memory()
    assert _release_memory._trim() is None
    _release_memory._trim.cache_clear()
