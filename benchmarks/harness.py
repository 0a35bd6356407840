# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: fair rounds, fresh processes, the two allocators, memory, a table and a record."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
PINNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
ALLOCATORS: dict[str, dict[str, str]] = {"default": {}, "pinned": PINNED}
Row = dict[str, Any]


def alternate(published: Callable[[], Any], ours: Callable[[], Any], rounds: int, warm_up: bool = True) -> Row:
    """Time two functions in turn, swapping who goes first, with ``warm_up`` after one unmeasured call of each.

    Returns:
        Milliseconds (minimum and median) and ratios published / ours: of the minima, and the median over rounds.
        The same ratio of processor time, all threads and the kernel included, changes less on a busy machine.
    """
    contenders = (published, ours)
    for run in contenders if warm_up else ():
        run()
    gc.collect()
    wall: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds):
        for who in (0, 1) if index % 2 == 0 else (1, 0):
            start, start_cpu = time.perf_counter(), time.process_time()
            contenders[who]()
            cpu[who].append(time.process_time() - start_cpu)
            wall[who].append(time.perf_counter() - start)
    return {
        "rounds": rounds,
        "published_ms": round(1000 * min(wall[0]), 2),
        "ours_ms": round(1000 * min(wall[1]), 2),
        "ratio_min": round(min(wall[0]) / min(wall[1]), 3),
        "ratio_median": round(median(a / b for a, b in zip(*wall, strict=True)), 3),
        "ratio_cpu": round(min(cpu[0]) / min(cpu[1]), 3),
    }


def check_equal(published: list[Any], ours: list[Any], tolerance: float) -> Row:
    """Compare tensors; the largest difference must stay below ``tolerance`` times the largest value.

    Raises:
        AssertionError: it does not.
    """
    import torch

    pairs = [(a.double(), b.double()) for a, b in zip(published, ours, strict=True)]
    # torch's max, unlike Python's, does not lose a NaN
    difference = torch.stack([(a - b).abs().max() for a, b in pairs]).max().item()
    scale = torch.stack([a.abs().max() for a, _ in pairs]).max().item()
    assert difference <= tolerance * scale, f"differs by {difference:.3g}, largest value {scale:.3g}"
    return {"max_difference": float(f"{difference:.3g}"), "largest_value": float(f"{scale:.4g}")}


def fresh_process(function: str, arguments: dict[str, Any], allocator: str = "default") -> Any:
    """Call ``package.module:function(**arguments)`` in a new process and return what it returns (JSON).

    Raises:
        RuntimeError: it failed; the message ends with what it printed.
    """
    environment = {k: v for k, v in os.environ.items() if k not in PINNED} | ALLOCATORS[allocator]
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning makes all slow where another program works
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.harness", function, json.dumps(arguments)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{function} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def under_allocators(function: str, arguments: dict[str, Any], quick: bool = False) -> list[Row]:
    """Collect the rows of one function from a process under each allocator; ``quick`` stays in this process."""
    if quick:
        return [{"allocator": "inherited", **row} for row in _call(function, arguments)]
    rows: list[Row] = []
    for allocator in ALLOCATORS:
        rows += [{"allocator": allocator, **row} for row in fresh_process(function, arguments, allocator)]
    return rows


def memory_mb(field: str) -> float:
    """Read ``VmRSS`` (memory in use) or ``VmHWM`` (its peak) of this process, in MB of 10^6 bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}; the memory benchmarks need Linux.")


def reset_peak() -> None:
    """Let ``VmHWM`` start anew from what is in use now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main(name: str, description: str, measure: Callable[[int, bool], list[Row]], rounds: int) -> None:
    """Be the command line of one benchmark: measure, print a table, write ``results/<name>.json``."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="measured rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that only show that it works")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/; none with --quick)")
    parser.add_argument(
        "--threads", type=int, help="of each process (default: what torch takes); 1 if others work here"
    )
    asked = parser.parse_args()
    if asked.threads:
        os.environ["OMP_NUM_THREADS"] = str(asked.threads)  # before torch is imported, here and in each process
    load = os.getloadavg()[0]
    rows = measure(asked.rounds, asked.quick)
    print_table(description.strip().splitlines()[0], rows)
    output = asked.output or (None if asked.quick else ROOT / "benchmarks" / "results" / f"{name}.json")
    if output is not None:
        record = {
            "benchmark": name,
            "quick": asked.quick,
            **machine(),
            "load_before": round(load, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "rows": rows,
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def print_table(title: str, rows: list[Row]) -> None:
    """Print rows as Markdown, one table for each run of rows with the same columns."""
    print(f"\n{title}")
    for columns, alike in groupby(rows, key=tuple):
        cells = [columns, *([str(value) for value in row.values()] for row in alike)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
        rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
        print("\n".join(["", lines[0], rule, *lines[1:]]), flush=True)


def machine() -> Row:
    """Say what the figures were measured on."""
    import torch

    cpu = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = next((x.split(":")[1].strip() for x in text.splitlines() if x.startswith("model name")), cpu)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _call(function: str, arguments: dict[str, Any]) -> Any:
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)(**arguments)


if __name__ == "__main__":
    print("\n" + json.dumps(_call(sys.argv[1], json.loads(sys.argv[2]))))
