# SPDX-License-Identifier: Apache-2.0
"""Two hosts train together, one loses its process, and the run ends as one process alone would have ended it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from tests.bundles.made_data import volumes
from tests.bundles.profiles import SAM_SP
from tests.bundles.runs import TRAIN, command, read_json, run
from tests.bundles.two_hosts import Agent, two_hosts

EPOCHS = 6
# plain gradient descent, since Adam makes a step of the rate out of a rounding error
KNOBS = {"max_epochs": EPOCHS, "learning_rate": 0.05, "warmup_steps": 2, "optimizer#_target_": "torch.optim.SGD"}


def epochs_of(folder: Path) -> list[dict[str, float]]:
    history = folder / "eval" / "history.json"
    return read_json(history)["epochs"] if history.is_file() else []


def wait_for_epoch(folder: Path, agents: list[Agent], epoch: int) -> None:
    deadline = time.monotonic() + 200
    while len(epochs_of(folder)) < epoch:
        ended = [agent.log.read_text(encoding="utf-8")[-3000:] for agent in agents if agent.process.poll() is not None]
        assert ended == []
        assert time.monotonic() < deadline, agents[0].log.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.02)


@pytest.mark.slow
def test_two_hosts_survive_a_killed_worker_and_end_as_one_process_does(tmp_path: Path) -> None:
    data = volumes(tmp_path / "data", 1, (0, 1))  # four slices with an object: two steps of two, in all cases
    alone, together = tmp_path / "alone", tmp_path / "together"
    together.mkdir()
    words = command(
        SAM_SP.name, "training", (*TRAIN, "multi_gpu_train.json"), together, data, **KNOBS, batch_size=1, resume=True
    )
    with (
        two_hosts() as (first, second),
        Agent(first, first, words, together / "first.log") as leader,
        Agent(second, first, words, together / "second.log") as follower,
    ):
        wait_for_epoch(together, [leader, follower], 2)
        follower.kill_worker()
        killed_in = len(epochs_of(together)) + 1
        for agent in (leader, follower):
            assert agent.process.wait(timeout=300) == 0, agent.log.read_text(encoding="utf-8")[-3000:]
    assert killed_in <= EPOCHS
    log = (together / "first.log").read_text(encoding="utf-8")
    assert "training goes on with epoch" in log

    run(SAM_SP.name, "training", TRAIN, alone, data, **KNOBS, batch_size=2)
    assert read_json(together / "eval" / "run.json")["hardware"]["processes"] == 2
    ours, theirs = epochs_of(together), epochs_of(alone)
    assert [epoch["epoch"] for epoch in ours] == list(range(1, EPOCHS + 1))
    dice = [[epoch["val_mean_dice"] for epoch in history] for history in (ours, theirs)]
    assert dice[0] == pytest.approx(dice[1], abs=1e-3)
    assert theirs[-1]["train_loss"] < theirs[0]["train_loss"]
    weights = [
        torch.load(folder / "eval" / "checkpoint.pt", weights_only=True)["objects"]["network"]
        for folder in (together, alone)
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)
