# SPDX-License-Identifier: Apache-2.0
"""What each step of a command takes: seconds and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_BYTES = 1 if sys.platform == "darwin" else 1024  # of a unit of ru_maxrss


class StepCosts:
    """Measure named steps.

    The peak is the process's largest resident memory during the step, the interpreter and all libraries included. Where
    the system cannot begin anew (anywhere but on Linux), it is the largest since the process began.

    Example:
        >>> costs = StepCosts()
        >>> with costs.of("nothing"):
        ...     pass
        >>> list(costs.measured), sorted(costs.measured["nothing"])
        (['nothing'], ['peak_memory_mb', 'seconds'])
    """

    def __init__(self) -> None:
        self.measured: dict[str, dict[str, float]] = {}

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Measure what is done inside; a step that comes again adds its seconds, and keeps the larger peak."""
        _forget_peak()
        start = time.perf_counter()
        yield
        before = self.measured.get(step, {"seconds": 0.0, "peak_memory_mb": 0.0})
        self.measured[step] = {
            "seconds": round(before["seconds"] + time.perf_counter() - start, 3),
            "peak_memory_mb": max(before["peak_memory_mb"], round(_peak_bytes() / 1e6, 1)),
        }


def _forget_peak() -> None:
    try:
        _RESET.write_text("5", encoding="utf-8")  # see proc(5): the resident set's high-water mark
    except OSError:
        return


def _peak_bytes() -> int:
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return _BYTES * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
