# SPDX-License-Identifier: Apache-2.0
"""SAMora's first stage when it is killed, started again, watched by a guard, or run by two processes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from monai_ext.errors import message_of
from monai_ext.networks.nets.sam import build_plain_sam
from tests.bundles.pretraining import (
    STAGES,
    STUDENTS,
    checkpoint,
    command,
    history,
    losses,
    network_before,
    pretrain,
    refused,
    written,
)
from tests.bundles.runs import environment, read_json, torchrun


@pytest.fixture(scope="module")
def scans(brain: Path) -> Path:
    return brain / "datalist.json"


def test_a_killed_run_goes_on_from_its_last_epoch(scans: Path, tmp_path: Path) -> None:
    words = [sys.executable, *command("pretrain_pixel", tmp_path, scans, num_workers=1, max_epochs=200)]
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (tmp_path / "eval" / "checkpoint.pt").is_file():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no epoch ended in time"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = torch.load(tmp_path / "eval" / "checkpoint.pt", weights_only=True)["trainer"]["epoch"]
    pretrain("pretrain_pixel", tmp_path, scans, max_epochs=done + 1, resume=True)
    assert [row["epoch"] for row in history(tmp_path)] == list(range(1, done + 2))


def test_resuming_with_another_frozen_encoder_is_refused(scans: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.save(build_plain_sam("vit_tiny", 64).state_dict(), tmp_path / "sam.pth")
    pretrain("pretrain_pixel", tmp_path, scans, max_epochs=1)
    more = {"resume": True, "pretrained": str(tmp_path / "sam.pth"), "max_epochs": 2}
    assert "frozen weights are others" in message_of(refused("pretrain_pixel", tmp_path, scans, **more))


def test_neither_workers_nor_a_second_try_change_a_run_but_another_seed_does(scans: Path, tmp_path: Path) -> None:
    runs = {"first": {}, "again": {"num_workers": 1}, "other": {"seed": 1}}
    first, again, other = (
        losses(pretrain("pretrain_pixel", tmp_path / name, scans, max_epochs=1, **knobs))
        for name, knobs in runs.items()
    )
    assert first == again
    assert first != other


def test_the_pixel_level_denoises_better_than_nothing_would(scans: Path, tmp_path: Path) -> None:
    """Doing nothing leaves the square of the noise, 0.25; the mean grey value everywhere would leave 0.15."""
    more = {"image_size": 64, "noise_sigma": 0.5, "max_epochs": 8, "learning_rate": 0.01, "augment": False}
    assert min(loss for _, _, loss in losses(pretrain("pretrain_pixel", tmp_path, scans, **more))) < 0.25 / 4


@pytest.mark.parametrize(
    ("stage", "rate"), [("pretrain_pixel", "learning_rate"), ("pretrain_patch_teacher", "base_learning_rate")]
)
def test_held_out_images_are_spoilt_alike_after_each_epoch(stage: str, rate: str, scans: Path, tmp_path: Path) -> None:
    """A network that learns nothing is then scored the same."""
    first, second = losses(pretrain(stage, tmp_path, scans, max_epochs=2, weight_decay=0.0, **{rate: 0.0}))
    assert first[2] == second[2]
    assert first[1] != second[1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_slices(stage: str, scans: Path, tmp_path: Path) -> None:
    without_warmup = {"warmup_steps": 0} if stage in STUDENTS else {"warmup_share": 0.0}
    rate = {"base_learning_rate" if stage == "pretrain_patch_teacher" else "learning_rate": 1e30}
    written(stage, tmp_path).parent.mkdir()
    written(stage, tmp_path).write_bytes(b"precious")
    message = message_of(refused(stage, tmp_path, scans, batch_size=4, weight_decay=0.0, **rate, **without_warmup))
    assert "training_image (slice " in message
    assert "learning_rate" in message
    assert "\n" not in message
    assert written(stage, tmp_path).read_bytes() == b"precious"


def one_of_two(rank: int, stage: str, folder: str, data: str, port: int) -> None:
    """What torchrun would start; forked, since a new process takes long to import torch and monai."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    logging.basicConfig(filename=f"{folder}/{rank}.log", level=logging.INFO, force=True)
    pretrain(stage, Path(folder), Path(data), ("multi_gpu_pretrain.json",), max_epochs=1)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "pretrain_pixel"])
def test_two_processes_train_and_agree(stage: str, scans: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(one_of_two, (stage, str(tmp_path), str(scans), port), nprocs=2, start_method="fork")
    logs = [(tmp_path / f"{rank}.log").read_text(encoding="utf-8") for rank in (0, 1)]
    told = [line.split("held_out_loss: ")[1] for log in logs for line in log.splitlines() if "new best metric" in line]
    assert len(told) == 2
    assert told[0] == told[1]
    assert float(told[0]) == pytest.approx(losses(tmp_path)[0][2])
    assert read_json(tmp_path / "eval" / "run.json")["hardware"]["processes"] == 2
    assert ["is the best so far" in log for log in logs] == [True, True]
    assert sorted((tmp_path / "models").iterdir()) == [written(stage, tmp_path)]


def test_two_processes_under_torchrun_learn_what_one_does_from_the_same_batches(scans: Path, tmp_path: Path) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    both.mkdir()
    files = ("multi_gpu_pretrain.json",)
    ran = torchrun(command("pretrain_pixel", both, scans, files, batch_size=4, max_epochs=1), tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    pretrain("pretrain_pixel", alone, scans, batch_size=8, max_epochs=1)
    assert read_json(both / "eval" / "run.json")["hardware"]["processes"] == 2
    assert losses(both)[0] == pytest.approx(losses(alone)[0], rel=1e-4)
    start = network_before("pretrain_pixel", scans).state_dict()
    found, expected = (checkpoint(folder)["weights"] for folder in (both, alone))
    moved, apart = (
        sum(float((weight - other[name]).square().sum()) for name, weight in expected.items())
        for other in (start, found)
    )
    assert apart < 0.02**2 * moved  # Adam makes steps of the rounding of gradients that are nearly zero
