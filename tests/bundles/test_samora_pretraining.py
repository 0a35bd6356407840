# SPDX-License-Identifier: Apache-2.0
"""SAMora's first stage trains from scans without labels, changes only what it should, and goes on when interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from samora.network import LEVELS, SAMora

from monai_ext.engines import GuardedTrainer
from monai_ext.networks.checkpoints.base_hash import base_hash
from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.checkpoints.load_teacher import UNTRAINED
from monai_ext.networks.checkpoints.teacher_file import read_licence, save_teacher
from monai_ext.networks.layers.trained_part import TrainedPart
from tests.bundles.pretraining import (
    EPOCHS,
    SIDE,
    STAGES,
    STUDENTS,
    TEACHERS,
    checkpoint,
    history,
    losses,
    network_before,
    pretrain,
    written,
)
from tests.bundles.runs import read_json


@pytest.fixture(scope="module")
def scans(brain: Path) -> Path:
    """Scans with labels beside them, which nobody may look at."""
    return brain / "datalist.json"


@pytest.fixture(scope="module")
def run_of(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of an uninterrupted run of a stage, started from somewhere else."""

    @cache
    def train(stage: str) -> Path:
        folder, before = tmp_path_factory.mktemp(stage), Path.cwd()
        os.chdir(tmp_path_factory.mktemp("elsewhere"))
        try:
            return pretrain(stage, folder, scans)
        finally:
            os.chdir(before)

    return train


@pytest.mark.parametrize("stage", STAGES)
def test_it_trains_and_keeps_the_epoch_of_least_held_out_loss(stage: str, run_of: Callable[[str], Path]) -> None:
    rows, record = losses(run_of(stage)), read_json(run_of(stage) / "eval" / "run.json")
    assert [epoch for epoch, _, _ in rows] == [1, 2]
    assert (record["status"], record["best"]["metric"]) == ("finished", "held_out_loss")
    assert record["best"]["value"] == min(held_out for _, _, held_out in rows)
    assert sorted((run_of(stage) / "models").iterdir()) == [written(stage, run_of(stage))]
    assert len(list((run_of(stage) / "eval" / "overlays").glob("epoch_*.png"))) == EPOCHS


@pytest.mark.parametrize("stage", [*STUDENTS, "pretrain_patch_teacher"])
def test_the_loss_falls(stage: str, run_of: Callable[[str], Path]) -> None:
    """Contrast needs more than these few steps; that it learns is shown where networks meet the trainer."""
    first, last = losses(run_of(stage))
    assert last[1] < first[1]
    assert last[2] < first[2]


@pytest.mark.parametrize("stage", STUDENTS)
def test_the_expert_and_its_head_train_and_the_rest_stays_bit_for_bit(
    stage: str, run_of: Callable[[str], Path], scans: Path
) -> None:
    before, after = network_before(stage, scans), checkpoint(run_of(stage))
    level = stage.removeprefix("pretrain_")
    state = before.state_dict()
    assert all(name.startswith("head.") or f".experts.{level}.lora_" in name for name in after["weights"])
    assert [name for name, weight in after["weights"].items() if torch.equal(weight, state[name])] == []
    # a hash of the network that never trained; the run's own was taken after its first epoch
    assert after["frozen"] == TrainedPart(before).state_dict()["frozen"]


@pytest.mark.parametrize("stage", STUDENTS)
def test_the_best_expert_is_a_small_file_that_says_what_it_is(stage: str, run_of: Callable[[str], Path]) -> None:
    file = ExpertFile.read(written(stage, run_of(stage)))
    assert (file.level, file.rank, file.licence) == (stage.removeprefix("pretrain_"), 2, "")
    assert file.teacher == ("" if file.level == "pixel" else UNTRAINED)
    best = read_json(run_of(stage) / "eval" / "run.json")["best"]["epoch"]
    prefix = "student.image_encoder."
    last = {n: w for n, w in checkpoint(run_of(stage))["weights"].items() if n.startswith(prefix)}
    assert len(file.state) == len(last)
    as_in_last = [
        torch.equal(weight, last[f"{prefix}{place}.experts.{file.level}.{factor}"])
        for (place, _, factor), weight in ((name.rpartition("."), weight) for name, weight in file.state.items())
    ]
    assert all(as_in_last) == (best == EPOCHS)


def test_stage_2_with_the_same_seed_takes_all_three(run_of: Callable[[str], Path]) -> None:
    torch.manual_seed(0)  # as both stages do
    network = SAMora(sam_type="vit_tiny", image_size=64, lora_rank=2, hl_dim=12, hl_zero_init=False).eval()
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        untrained = network(image)
        network.load_experts({level: written(f"pretrain_{level}", run_of(f"pretrain_{level}")) for level in LEVELS})
        assert (network(image) - untrained).abs().max() > 1e-5
    bases = {ExpertFile.read(written(stage, run_of(stage))).base for stage in STUDENTS}
    assert bases == {base_hash(network.image_encoder)}


@pytest.mark.parametrize("level", ["image", "patch"])
def test_a_teacher_that_went_on_learning_teaches_and_its_licence_goes_along(
    level: str, run_of: Callable[[str], Path], scans: Path, tmp_path: Path
) -> None:
    teacher = network_before(f"pretrain_{level}_teacher", scans)
    teacher.load_state_dict(load_file(written(f"pretrain_{level}_teacher", run_of(f"pretrain_{level}_teacher"))))
    save_teacher(teacher, tmp_path / "theirs.safetensors", "not for sale")
    given = {"teacher_path": str(tmp_path / "theirs.safetensors"), "untrained_teacher": False, "max_epochs": 1}
    own = pretrain(f"pretrain_{level}_teacher", tmp_path / "teacher", scans, **given)
    assert read_licence(written(f"pretrain_{level}_teacher", own)) == "not for sale"
    given["teacher_path"] = str(written(f"pretrain_{level}_teacher", own))
    file = ExpertFile.read(written(f"pretrain_{level}", pretrain(f"pretrain_{level}", tmp_path, scans, **given)))
    assert file.licence == "not for sale"
    assert file.teacher.startswith(f"teacher_{level}.safetensors (SHA-256 ")
    random = losses(run_of(f"pretrain_{level}"))[0]
    assert losses(tmp_path)[0] != random


@pytest.mark.parametrize("stage", TEACHERS)
def test_all_of_a_teacher_trains(stage: str, run_of: Callable[[str], Path], scans: Path) -> None:
    before, after = network_before(stage, scans).state_dict(), load_file(written(stage, run_of(stage)))
    trains = {name for name, weight in network_before(stage, scans).named_parameters() if weight.requires_grad}
    assert set(after) == set(before)
    assert [name for name in trains if torch.equal(after[name], before[name])] == []


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_goes_on_to_the_same_weights_bit_for_bit(
    stage: str, run_of: Callable[[str], Path], scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = GuardedTrainer._step

    def stopped(trainer: GuardedTrainer) -> None:
        step(trainer)
        if trainer.state.iteration == 3:  # in the middle of the second epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GuardedTrainer, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            pretrain(stage, tmp_path, scans)
    assert len(history(tmp_path)) == 1
    pretrain(stage, tmp_path, scans, resume=True)
    expected, found = checkpoint(run_of(stage)), checkpoint(tmp_path)
    assert expected["frozen"] == found["frozen"]
    assert all(torch.equal(expected["weights"][name], weight) for name, weight in found["weights"].items())
    assert losses(tmp_path) == losses(run_of(stage))
    kept, wanted = load_file(written(stage, tmp_path)), load_file(written(stage, run_of(stage)))
    assert all(torch.equal(wanted[name], weight) for name, weight in kept.items())


def test_the_size_of_published_experts_is_known() -> None:
    with torch.device("meta"):
        network = SAMora(sam_type="vit_b", image_size=SIDE * 7)
    weights = [w for n, w in network.image_encoder.named_parameters() if ".experts.pixel." in n]
    assert 4 * sum(weight.numel() for weight in weights) == 589_824  # bytes, of 1,000,000
