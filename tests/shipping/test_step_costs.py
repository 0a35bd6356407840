# SPDX-License-Identifier: Apache-2.0
"""Seconds add up, and a step that took much memory does not count against the next one."""

from __future__ import annotations

import mmap
import sys
import time

import numpy as np
import pytest

from monai_ext.shipping import step_costs
from monai_ext.shipping.step_costs import StepCosts


def test_seconds_of_a_step_that_comes_again_add_up() -> None:
    costs = StepCosts()
    for _ in range(2):
        with costs.of("sleep"):
            time.sleep(0.02)
    assert 0.04 <= costs.measured["sleep"]["seconds"] < 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not forget the peak")
def test_the_peak_is_that_of_the_step() -> None:
    costs = StepCosts()
    with costs.of("large"):
        block = mmap.mmap(-1, 320_000_000)  # the system's own, which no allocator keeps
        np.frombuffer(block, np.uint8)[:] = 1
        block.close()
    with costs.of("small"):
        np.ones(1000)
    peaks = {name: cost["peak_memory_mb"] for name, cost in costs.measured.items()}
    assert peaks["large"] - peaks["small"] > 250


def test_without_proc_there_is_a_peak_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("_RESET", "_STATUS"):
        monkeypatch.setattr(step_costs, name, tmp_path / "none" / "none")  # type: ignore[operator]
    costs = StepCosts()
    with costs.of("step"):
        pass
    assert 10 < costs.measured["step"]["peak_memory_mb"] < 100_000
