# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_ext.handlers.best_model import BestModel
from monai_ext.handlers.run_checkpoint import RunCheckpoint

NAN = float("nan")


def run(
    folder: Path, metrics: list[float], network: nn.Module | None = None, interval: int = 1, **more: object
) -> Engine:
    """Train an epoch per metric; in epoch n every trainable weight becomes n."""
    network = nn.Linear(1, 1) if network is None else network
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.key_metric_name = "dice"

    def train(engine: Engine, batch: int) -> None:
        for weight in network.parameters():
            weight.data.fill_(engine.state.epoch) if weight.requires_grad else None

    def validate(engine: Engine) -> None:
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"dice": metrics[engine.state.epoch - 1]}

    trainer = Engine(train)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=interval), validate)
    BestModel(folder, network, evaluator, **more).attach(trainer)
    resume = (folder / "checkpoint.pt").exists()
    RunCheckpoint(folder, {"network": network}, resume).attach(trainer)
    trainer.run([0], max_epochs=len(metrics))
    return trainer


def weight_in(file: Path) -> float:
    return torch.load(file, weights_only=True)["weight"].item()


@pytest.mark.parametrize(
    ("metrics", "best"), [([0.1, 0.5, 0.3], 2), ([0.5, 0.5, 0.4], 1), ([NAN, 0.2, NAN], 2), ([-5.0, -9.0], 1)]
)
def test_the_first_of_the_best_epochs_is_kept(tmp_path: Path, metrics: list[float], best: int) -> None:
    trainer = run(tmp_path, metrics)
    assert weight_in(tmp_path / "model.pt") == best
    assert weight_in(tmp_path / "trained.pt") == best
    assert trainer.state.best_model == {"metric": metrics[best - 1], "epoch": best}


def test_epochs_without_validation_do_not_count(tmp_path: Path) -> None:
    run(tmp_path, [0.9, 0.5, 0.9, 0.4], interval=2)
    assert weight_in(tmp_path / "model.pt") == 2


@pytest.mark.parametrize("metrics", [[NAN, NAN], [0.5]])
def test_without_a_finite_metric_the_last_epoch_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metrics: list[float]
) -> None:
    run(tmp_path, metrics, interval=2)
    assert weight_in(tmp_path / "model.pt") == len(metrics)
    assert "there is no best epoch" in caplog.text


def test_resumed_run_remembers_the_best(tmp_path: Path) -> None:
    run(tmp_path, [0.1, 0.9])
    trainer = run(tmp_path, [0.1, 0.9, 0.5, 0.9])
    assert trainer.state.epoch == 4
    assert weight_in(tmp_path / "model.pt") == 2


def test_smaller_can_be_better(tmp_path: Path) -> None:
    handler = BestModel(tmp_path, nn.Linear(1, 1), evaluator := Engine(lambda engine, batch: None), key_metric="error")
    evaluator.metric_cmp_fn = lambda new, best: new < best
    trainer = Engine(lambda engine, batch: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"error": [0.3, 0.1, 0.2][engine.state.epoch - 1]}

    handler.attach(trainer)
    trainer.run([0], max_epochs=3)
    assert trainer.state.best_model == {"metric": 0.1, "epoch": 2}


def test_trained_file_holds_only_what_trains(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1))
    network[0].requires_grad_(False)
    run(tmp_path, [0.5], network)
    full, trained = (torch.load(tmp_path / name, weights_only=True) for name in ("model.pt", "trained.pt"))
    assert set(full) == set(network.state_dict())
    assert set(trained) == {name for name in full if not name.startswith("0.")}
    assert {"1.running_mean", "1.num_batches_tracked"} < set(trained)


def test_wrapped_network_is_written_with_plain_names(tmp_path: Path) -> None:
    run(tmp_path, [0.5], nn.DataParallel(nn.Linear(1, 1)))
    assert set(torch.load(tmp_path / "model.pt", weights_only=True)) == {"weight", "bias"}


def test_weight_that_is_a_view_does_not_bring_the_whole_storage(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    network.weight = nn.Parameter(torch.zeros(100_000, 1)[:1])
    run(tmp_path, [0.5], network)
    assert (tmp_path / "model.pt").stat().st_size < 10_000


def test_file_of_another_run_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "monai_ext")
    torch.save({"weight": torch.tensor([[7.0]])}, tmp_path / "model.pt")
    run(tmp_path, [0.5, 0.6])
    assert weight_in(tmp_path / "model_backup_1.pt") == 7
    assert weight_in(tmp_path / "model.pt") == 2
    assert "model_backup_1.pt" in caplog.text
    assert not (tmp_path / "model_backup_2.pt").exists()
