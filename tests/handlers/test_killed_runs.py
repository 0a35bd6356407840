# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed with SIGKILL and resumed end where uninterrupted ones end, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import resumable_run
import torch

from monai_ext.files import sha256_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``whole`` and ``killed`` of one process, ``whole2`` and ``killed2`` of two; the driver's log."""
    folder = tmp_path_factory.mktemp("killed_runs")
    command = [sys.executable, "-W", "ignore", resumable_run.__file__, str(folder), "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "log").write_text(done.stdout, encoding="utf-8")
    return folder


def result(file: Path) -> dict[str, object]:
    return torch.load(file, weights_only=True)


def test_the_driver_killed_in_the_middle_of_work_of_every_kind(folder: Path) -> None:
    log = (folder / "log").read_text(encoding="utf-8").splitlines()
    killed = {line.split()[0] for line in log if line.endswith("killed=True")}
    assert killed == {"delay", "writing", "renamed"}
    assert sum(line.endswith("killed=True") for line in log) >= 5


@pytest.mark.parametrize("part", ["network", "optimizer", "history", "best"])
def test_killed_and_resumed_run_equals_uninterrupted_run(folder: Path, part: str) -> None:
    whole, killed = (result(folder / name / "result.pt")[part] for name in ("whole", "killed"))
    torch.testing.assert_close(killed, whole, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["model.pt", "trained.pt"])
def test_killed_run_leaves_the_same_best_model(folder: Path, name: str) -> None:
    assert sha256_of(folder / "killed" / name) == sha256_of(folder / "whole" / name)


def test_killed_run_leaves_no_temporary_files_and_no_needless_backups(folder: Path) -> None:
    left = {file.name for file in (folder / "killed").iterdir() if file.stat().st_size}
    assert left == {"checkpoint.pt", "checkpoint_previous.pt", "model.pt", "trained.pt", "result.pt"}


def test_two_processes_end_with_the_same_weights(folder: Path) -> None:
    first, second = (result(folder / "whole2" / f"result{rank}.pt") for rank in (0, 1))
    weights = [{k: v for k, v in run["network"].items() if "running" not in k} for run in (first, second)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    torch.testing.assert_close(first["optimizer"], second["optimizer"], rtol=0, atol=0)


def test_two_processes_see_different_data(folder: Path) -> None:
    first, second = (result(folder / "whole2" / f"result{rank}.pt")["history"] for rank in (0, 1))
    assert [row["loss"] for row in first] != [row["loss"] for row in second]


@pytest.mark.parametrize("name", ["whole2", "killed2"])
def test_only_the_first_of_two_processes_writes(folder: Path, name: str) -> None:
    assert {"model.pt", "trained.pt", "checkpoint.pt"} <= set(
        (folder / name / "written_by_0").read_text(encoding="utf-8").split()
    )
    assert not (folder / name / "written_by_1").exists()


def test_two_killed_and_resumed_processes_equal_uninterrupted_ones(folder: Path) -> None:
    whole, killed = (result(folder / name / "result0.pt") for name in ("whole2", "killed2"))
    torch.testing.assert_close(killed, whole, rtol=0, atol=0)


def test_checkpoint_of_two_processes_has_plain_weight_names(folder: Path) -> None:
    assert "0.weight" in result(folder / "whole2" / "checkpoint.pt")["objects"]["network"]
