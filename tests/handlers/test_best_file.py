# SPDX-License-Identifier: Apache-2.0
"""BestFile: a part of the network, as of its best epoch, whatever writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_ext.engines import smaller_is_better
from monai_ext.handlers import BestFile, RunCheckpoint

NAN = float("nan")


def write_weight(network: nn.Module, path: Path) -> None:
    path.write_text(f"{network.weight.item():g}", encoding="utf-8")


def run(folder: Path, metrics: list[float]) -> Engine:
    """Train an epoch per metric; in epoch n the weight becomes n. Smaller is better."""
    network, evaluator = nn.Linear(1, 1), Engine(lambda engine, batch: None)
    evaluator.state.key_metric_name, evaluator.metric_cmp_fn = "loss", smaller_is_better

    def validate(engine: Engine) -> None:
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"loss": metrics[engine.state.epoch - 1]}

    trainer = Engine(lambda engine, batch: network.weight.data.fill_(engine.state.epoch))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    wrapped = nn.DataParallel(network)
    BestFile(folder / "weight.txt", wrapped, write_weight, evaluator).attach(trainer)
    RunCheckpoint(folder, {"network": network}, (folder / "checkpoint.pt").exists()).attach(trainer)
    trainer.run([0], max_epochs=len(metrics))
    return trainer


@pytest.mark.parametrize(
    ("metrics", "best"), [([0.5, 0.1, 0.3], 2), ([0.4, 0.4, 0.5], 1), ([NAN, 0.2, NAN], 2), ([NAN, NAN], 2)]
)
def test_the_first_of_the_best_epochs_is_kept(tmp_path: Path, metrics: list[float], best: int) -> None:
    run(tmp_path, metrics)
    assert (tmp_path / "weight.txt").read_text(encoding="utf-8") == str(best)


def test_a_resumed_run_remembers_the_best(tmp_path: Path) -> None:
    run(tmp_path, [0.3, 0.1])
    run(tmp_path, [0.3, 0.1, 0.2])
    assert (tmp_path / "weight.txt").read_text(encoding="utf-8") == "2"
    assert sorted(path.name for path in tmp_path.glob("weight*")) == ["weight.txt"]


def test_another_runs_file_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "weight.txt").write_text("precious", encoding="utf-8")
    run(tmp_path, [0.3, 0.1])
    assert (tmp_path / "weight_backup_1.txt").read_text(encoding="utf-8") == "precious"
    assert (tmp_path / "weight.txt").read_text(encoding="utf-8") == "2"


def test_the_network_is_given_without_its_wrapper(tmp_path: Path) -> None:
    given: list[nn.Module] = []
    network, trainer = nn.Linear(1, 1), Engine(lambda engine, batch: None)

    def save(network: nn.Module, path: Path) -> None:
        given.append(network)
        torch.save({}, path)

    BestFile(tmp_path / "x.pt", nn.DataParallel(network), save).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert given == [network]
