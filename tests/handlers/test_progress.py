# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from resumable_run import build

from monai_ext.handlers.progress import EpochProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(folder: Path, stream: io.StringIO) -> None:
    trainer, *_ = build(folder, max_epochs=2)
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.key_metric_name, evaluator.state.epoch = "val_mean_dice", 2
    evaluator.state.metrics = {"val_mean_dice": 0.5}
    EpochProgress(evaluator, stream=stream).attach(trainer)
    trainer.run()


def test_each_epoch_gives_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "monai_ext.handlers.progress")
    train(tmp_path, io.StringIO())
    first, second = (r.getMessage() for r in caplog.records if r.name == "monai_ext.handlers.progress")
    assert re.fullmatch(r"epoch 1 of 2: loss \d\.\d{4}, learning rate 0\.01, \d+ s", first)
    assert re.fullmatch(r"epoch 2 of 2: loss \d\.\d{4}, learning rate 0\.00976, val_mean_dice 0\.5000, \d+ s", second)


def test_bar_on_a_terminal_counts_the_whole_run(tmp_path: Path) -> None:
    terminal = Terminal()
    train(tmp_path, terminal)
    assert "epoch 2/2: 100%" in terminal.getvalue()
    assert "12/12" in terminal.getvalue()
    assert ", loss " in terminal.getvalue()


def test_nothing_is_drawn_elsewhere(tmp_path: Path) -> None:
    file = io.StringIO()
    train(tmp_path, file)
    assert file.getvalue() == ""


def test_bar_of_an_evaluator_counts_one_validation() -> None:
    terminal = Terminal()
    evaluator = Engine(lambda engine, batch: None)
    evaluator.data_loader = [0, 1, 2]
    EpochProgress(stream=terminal).attach(evaluator)
    evaluator.run([0, 1, 2], max_epochs=1)
    assert "validation" in terminal.getvalue()
    assert "/3 " in terminal.getvalue()


@pytest.mark.parametrize("decollated", [False, True])
def test_the_loss_is_the_mean_over_samples(caplog: pytest.LogCaptureFixture, decollated: bool) -> None:
    def step(engine: Engine, size: int) -> object:
        output = {"loss": float(size), "image": torch.zeros(size, 1)}
        return [output] * size if decollated else output

    caplog.set_level(logging.INFO, "monai_ext.handlers.progress")
    trainer = Engine(step)
    EpochProgress().attach(trainer)
    trainer.run([3, 1], max_epochs=1)
    assert "loss 2.5000" in caplog.text  # (3 * 3 + 1 * 1) / 4
