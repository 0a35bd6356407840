# SPDX-License-Identifier: Apache-2.0
"""Each benchmark runs, tiny; that both sides give the same result is asserted inside, times are not."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sam2_unet.network import SAM2UNet

from benchmarks import harness
from benchmarks.__main__ import NAMES
from benchmarks.published import build_pair


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny work on two busy cores is mostly waiting
    yield
    torch.set_num_threads(before)


def test_each_script_is_run_by_the_runner() -> None:
    shared = {"__init__", "__main__", "harness", "drawn_desam"}
    shared |= {"label_clicks"}  # needs the environment label; tests/served runs it
    shared |= {"published", "published_desam", "published_pimm", "published_selection"}
    assert {p.stem for p in (harness.ROOT / "benchmarks").glob("*.py")} - shared == set(NAMES)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"volume"}))
def test_quick(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module, output = importlib.import_module(f"benchmarks.{name}"), tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--rounds", "1", "--output", str(output)])
    harness.main(name, module.__doc__, module.measure, rounds=1)
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["rows"]
    assert record["torch"] == torch.__version__
    assert next(iter(record["rows"][0].values())) in capsys.readouterr().out


@pytest.mark.parametrize("function", ["infer", "run_bundle"])
def test_volume_memory_is_measured(function: str) -> None:
    row = getattr(importlib.import_module("benchmarks.volume"), function)(backbone="nano", side=32, slices=3)
    assert row["peak_mb"] >= row["before_mb"] > 0


def test_volume_speed_compares_equal_results() -> None:
    rows = importlib.import_module("benchmarks.volume").compare(backbone="nano", side=32, slices=3, rounds=1)
    assert [row["max_difference"] <= 1e-5 for row in rows] == [True, True]


def test_each_allocator_is_set_in_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")  # what the caller has set must not leak in
    for key, value in harness.PINNED.items():
        found = {name: harness.fresh_process("os:getenv", {"key": key}, name) for name in harness.ALLOCATORS}
        assert found == {"default": None, "pinned": value}


def test_a_failure_in_a_fresh_process_is_told() -> None:
    with pytest.raises(RuntimeError, match="no_such_function"):
        harness.fresh_process("benchmarks.harness:no_such_function", {})


@pytest.mark.parametrize("difference", [1.0, float("nan")])
def test_different_results_are_refused(difference: float) -> None:
    with pytest.raises(AssertionError, match="differs by"):
        harness.check_equal([torch.ones(3)] * 2, [torch.ones(3), torch.ones(3) + difference], 1e-5)


def test_the_published_network_shares_weights_and_leaves_them_frozen() -> None:
    published, network = build_pair("nano")
    alone = {name for name, weight in SAM2UNet(backbone="nano").named_parameters() if weight.requires_grad}
    assert {name for name, weight in network.named_parameters() if weight.requires_grad} == alone
    assert len(list(published.parameters())) == len(list(network.parameters()))


def test_rounds_alternate() -> None:
    calls: list[str] = []
    row: dict[str, Any] = harness.alternate(lambda: calls.append("published"), lambda: calls.append("ours"), rounds=2)
    assert calls == ["published", "ours", "published", "ours", "ours", "published"]
    assert row["rounds"] == 2


def test_what_takes_minutes_is_not_called_to_warm_up() -> None:
    calls: list[str] = []
    harness.alternate(lambda: calls.append("published"), lambda: calls.append("ours"), rounds=1, warm_up=False)
    assert calls == ["published", "ours"]


@pytest.mark.parametrize(("grid", "side"), [(3, 16), (9, 256)])
def test_drawn_masks_need_the_clean_up_where_they_should_and_are_no_duplicates(grid: int, side: int) -> None:
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    from benchmarks.drawn_desam import discs
    from benchmarks.published_selection import first_record

    faulty, ious = torch.ones(grid**2, dtype=torch.bool), torch.linspace(0.6, 0.9, grid**2)
    faulty[0] = False  # the least of all: it comes first only if it is no duplicate and no other is clean
    record = first_record(ious, discs(grid, side, faulty), 0.5, 0.7, 1000 * side**2 // 256**2)
    assert (record.index, record.cleaned) == (0, False)
    assert first_record(ious, discs(grid, side, ~faulty), 0.5, 0.7, 1000 * side**2 // 256**2).index == grid**2 - 1
