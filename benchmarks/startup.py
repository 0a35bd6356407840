# SPDX-License-Identifier: Apache-2.0
"""Seconds from `python -m monai_ext --help` to its end."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks.harness import ROOT, Row, main

COMMANDS = {
    "python -m monai_ext --help": (["-m", "monai_ext", "--help"], 1.0),
    "python -m monai_ext report --help": (["-m", "monai_ext", "report", "--help"], 1.0),
    "python -c pass": (["-c", "pass"], None),
}


def measure(rounds: int, quick: bool) -> list[Row]:
    """Run each command ``rounds`` times after one run that is not counted."""
    rows = []
    for name, (words, target) in COMMANDS.items():
        seconds = [_run(words) for _ in range(2 if quick else rounds + 1)][1:]
        row = {"command": name, "runs": len(seconds), "min_s": round(min(seconds), 3)}
        rows.append({**row, "median_s": round(median(seconds), 3), "max_s": round(max(seconds), 3), "target_s": target})
    return rows


def _run(words: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start


if __name__ == "__main__":
    main("startup", __doc__, measure, rounds=9)
