# SPDX-License-Identifier: Apache-2.0
"""Networks that write the file of their task themselves, and experts that are loaded when a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn as nn
from ignite.engine import Engine
from safetensors.torch import load_file, save_file
from torch import Tensor

from monai_ext.handlers import BestModel, ExpertsLoader, WeightsLoader


class OwnTask(nn.Module):
    """Keeps a frozen weight with what it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.expert, self.head = (nn.Parameter(torch.zeros(1)) for _ in range(3))
        self.base.requires_grad_(False)
        self.expert.requires_grad_(False)

    def task_state(self) -> dict[str, Tensor]:
        return {"expert": self.expert.data, "head": self.head.data}

    def save_task(self, path: str | Path) -> None:
        Path(path).parent.mkdir(exist_ok=True)
        save_file(self.task_state(), path)

    def load_task(self, path: str | Path) -> nn.Module:
        self.load_state_dict(load_file(path), strict=False)
        return self

    def load_experts(self, files: Mapping[str, str | Path | None] | None) -> nn.Module:
        self.expert.data.fill_(float((files or {})["pixel"] or 0))
        return self


def train(network: nn.Module, folder: Path, head: float) -> None:
    trainer = Engine(lambda engine, batch: network.head.data.fill_(head))  # type: ignore[union-attr, operator]
    BestModel(folder, network, trained_file_name="tasks/main.safetensors").attach(trainer)
    ExpertsLoader(network, {"pixel": "3"}).attach(trainer)
    trainer.run([0], max_epochs=1)


def test_the_network_writes_its_own_file_and_reads_it_back(tmp_path: Path) -> None:
    train(OwnTask(), tmp_path, head=7.0)
    other = OwnTask()
    torch.save(other.state_dict(), tmp_path / "model.pt")
    WeightsLoader(tmp_path / "model.pt", other, task="main").attach(engine := Engine(lambda engine, batch: None))
    engine.run([0])
    assert (float(other.base), float(other.expert), float(other.head)) == (0.0, 3.0, 7.0)


def test_another_runs_file_is_put_aside_and_the_same_content_is_not(tmp_path: Path) -> None:
    for head in (7.0, 7.0, 8.0):
        train(OwnTask(), tmp_path, head)
    found = {path.name: float(load_file(path)["head"]) for path in (tmp_path / "tasks").iterdir()}
    assert found == {"main.safetensors": 8.0, "main_backup_1.safetensors": 7.0}
