# SPDX-License-Identifier: Apache-2.0
"""Runs the steps of a longer command as processes of their own, with the settings that a CPU wants."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_ext.errors import InputError

# glibc gives large temporaries back to the kernel at every free and faults them in again at the next step; keeping
# them makes long CPU work markedly faster (benchmarks/README.md)
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
# threads that spin while they wait make a training step many times slower as soon as another program wants the cores
THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


def as_words(knobs: Mapping[str, object]) -> list[str]:
    """Return knobs as words of a command line.

    Example:
        >>> as_words({"max_epochs": 2})
        ['--max_epochs', '2']
    """
    return [word for key, value in knobs.items() for word in (f"--{key}", str(value))]


def bundle_words(bundle: Path, run_id: str, files: Sequence[str | Path]) -> list[str]:
    """Return what python is to be given to run a bundle; files that are no paths lie in its ``configs``."""
    listed = [str(file if Path(file).is_file() else bundle / "configs" / file) for file in files]
    words = ["-m", "monai.bundle", "run", run_id, "--bundle_root", str(bundle)]
    return [*words, "--config_file", "[" + ",".join(f"'{file}'" for file in listed) + "]"]


def run_step(title: str, words: Sequence[str], command: str) -> float:
    """Show a step, run it, and return the seconds it took.

    Args:
        title: what the step does, in a few words.
        words: arguments of python.
        command: the name of ours that is to be run again to go on after a failure.

    Raises:
        InputError: it failed.
    """
    print(f"\n== {title}\n$ python {' '.join(words)}", flush=True)
    begun = time.monotonic()
    environment = {**ALLOCATOR, **THREADS, "PYTHONWARNINGS": "ignore", **os.environ}
    status = subprocess.run([sys.executable, *words], env=environment, check=False).returncode
    if status:
        raise InputError(
            f"{title}: the command above ended with status {status}; run {command} again to go on from here."
        )
    seconds = time.monotonic() - begun
    print(f"-- {title}: {seconds:.0f} s", flush=True)
    return seconds
