# SPDX-License-Identifier: Apache-2.0
"""LossTerms: means over samples, in the history and in TensorBoard, in one process and in two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from monai.handlers import TensorBoardStatsHandler
from torch import Tensor, nn

from monai_ext.engines import GuardedTrainer
from monai_ext.handlers import LossTerms, RunRecord

BATCHES = ((1.0, 3), (5.0, 1), (2.0, 4))  # what the images are filled with, and how many there are


class TwoTerms(nn.Module):
    """A loss of two terms: the mean of the prediction, and its square."""

    terms: dict[str, Tensor]

    def forward(self, prediction: Tensor, label: Tensor) -> Tensor:
        mean = prediction.mean()
        self.terms = {"mean": mean.detach(), "square": mean.detach() ** 2}
        return mean + mean**2


def trainer_of(folder: Path, batches: tuple[tuple[float, int], ...], *more: object) -> GuardedTrainer:
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    loss = TwoTerms()
    record = RunRecord(folder, bundle="toy", knobs={}, network=network, seed=0)
    data = [{key: torch.full((count, 1), value) for key in ("image", "label")} for value, count in batches]
    return GuardedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=loss,
        train_handlers=[LossTerms(loss), record, *more],
    )


def means(*batches: tuple[float, int]) -> dict[str, float]:
    samples = sum(count for _, count in batches)
    return {
        "train_loss_mean": sum(value * count for value, count in batches) / samples,
        "train_loss_square": sum(value**2 * count for value, count in batches) / samples,
    }


def terms_of(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "history.json").read_text(encoding="utf-8"))["epochs"]
    return [{name: value for name, value in row.items() if name.startswith("train_loss_")} for row in rows]


def test_every_epoch_of_the_history_has_the_mean_over_its_samples(tmp_path: Path) -> None:
    trainer_of(tmp_path, BATCHES).run()
    assert terms_of(tmp_path) == [pytest.approx(means(*BATCHES))] * 2


def test_the_means_add_up_to_the_loss_of_the_history(tmp_path: Path) -> None:
    trainer_of(tmp_path, BATCHES).run()
    row = json.loads((tmp_path / "history.json").read_text(encoding="utf-8"))["epochs"][0]
    assert row["train_loss_mean"] + row["train_loss_square"] == pytest.approx(row["train_loss"])


def test_tensorboard_draws_them(tmp_path: Path) -> None:
    board = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason='pip install "monai-ext[tracking]"'
    )
    trainer_of(tmp_path, BATCHES, TensorBoardStatsHandler(log_dir=str(tmp_path / "board"), iteration_log=False)).run()
    events = board.EventAccumulator(str(tmp_path / "board")).Reload()
    drawn = [(event.step, event.value) for event in events.Scalars("loss_square")]
    assert drawn == [(epoch, pytest.approx(means(*BATCHES)["train_loss_square"])) for epoch in (1, 2)]


def run_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    trainer_of(folder / f"written-by-{rank}", BATCHES[:2] if rank == 0 else BATCHES[2:]).run()
    dist.destroy_process_group()


def test_two_processes_average_over_all_samples(tmp_path: Path) -> None:
    processes = mp.start_processes(run_process, (tmp_path,), nprocs=2, join=False, start_method="fork")
    assert any(processes.join(timeout=120) for _ in range(3))
    assert terms_of(tmp_path / "written-by-0") == [pytest.approx(means(*BATCHES))] * 2
