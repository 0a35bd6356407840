# SPDX-License-Identifier: Apache-2.0
"""Stage 1's networks: expert and head train, all else stays as it is bit for bit, and the teacher only speaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.losses import ReconstructionLoss
from monai_ext.networks.blocks.denoising_decoder import DenoisingDecoder
from monai_ext.networks.blocks.grid_head import GridHead
from monai_ext.networks.blocks.pooled_head import PooledHead
from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.checkpoints.save_expert import save_expert
from monai_ext.networks.layers.lora_experts import expert_state
from monai_ext.networks.nets.distillation import Distillation
from monai_ext.networks.nets.expert_student import ExpertStudent
from monai_ext.networks.nets.headed_student import HeadedStudent
from monai_ext.networks.nets.mae_encoder import build_mae_encoder
from monai_ext.networks.nets.resnet_sk import build_resnet_sk
from monai_ext.networks.nets.simclr import SimCLR

SIDE = 64


def student(level: str) -> ExpertStudent:
    torch.manual_seed(0)
    return ExpertStudent(level, sam_type="vit_tiny", image_size=SIDE)


def image_level(teacher_size: int | None = None) -> Distillation:
    teacher = build_resnet_sk("small")
    return Distillation(student("image"), PooledHead(256, teacher.out_channels), teacher, teacher_size)


def patch_level(teacher_size: int | None = None) -> Distillation:
    teacher = build_mae_encoder("small", SIDE if teacher_size is None else teacher_size)
    return Distillation(student("patch"), GridHead(256, teacher.out_channels, teacher.grid), teacher, teacher_size)


def pixel_level() -> HeadedStudent:
    return HeadedStudent(student("pixel"), DenoisingDecoder(channels=(256, 16, 8, 8, 8)))


def images() -> Tensor:
    return torch.rand(2, 1, SIDE, SIDE)


def step(network: nn.Module, count: int = 1) -> None:
    """As a trainer does it: all parameters are given to the optimizer, and the label is the image."""
    optimizer, loss = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1), ReconstructionLoss()
    for _ in range(count):
        network.train()
        optimizer.zero_grad()
        image = images()
        loss(network(image), image).backward()
        optimizer.step()


LEVELS = [image_level, patch_level, pixel_level]


@pytest.mark.parametrize("build", LEVELS)
def test_steps_change_expert_and_head_and_nothing_else_bit_for_bit(build: Callable[[], nn.Module]) -> None:
    network = build()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    step(network, 2)
    changed = {name for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])}
    wanted = {name for name in before if name.startswith("head.") or ".lora_" in name}
    assert changed == wanted


@pytest.mark.parametrize("build", LEVELS)
def test_expert_and_head_are_all_that_trains(build: Callable[[], nn.Module]) -> None:
    trains = {name for name, weight in build().named_parameters() if weight.requires_grad}
    assert all(name.startswith("head.") or ".lora_" in name for name in trains)
    assert len([name for name in trains if ".lora_" in name]) == 4 * 6


@pytest.mark.parametrize("build", [image_level, patch_level])
def test_the_teacher_gets_no_gradient_and_stays_in_eval(build: Callable[[], Distillation]) -> None:
    network = build()
    step(network)
    assert network.teacher is not None
    assert network.training
    assert network.student.training
    assert not any(part.training for part in network.teacher.modules())
    assert all(weight.grad is None for weight in network.teacher.parameters())


@pytest.mark.parametrize("build", [image_level, patch_level])
def test_features_given_from_a_cache_are_the_same_lesson(build: Callable[[], Distillation]) -> None:
    network, image = build(), images()
    cached = network.teach(image)
    said, wanted = network(image)
    assert said.shape == wanted.shape
    assert not wanted.requires_grad
    network.teacher = None
    said_again, given = network(image, cached)
    assert torch.equal(said_again, said)
    assert torch.equal(given, wanted)
    with pytest.raises(ValueError, match="there is no teacher; give its features"):
        network(image)


@pytest.mark.parametrize("build", [image_level, patch_level])
def test_a_teacher_may_see_another_size(build: Callable[..., Distillation]) -> None:
    network, image = build(teacher_size=96), images()
    assert network.teacher is not None
    larger = nn.functional.interpolate(image, (96, 96), mode="bilinear", antialias=True)
    torch.testing.assert_close(network.teach(image), network.teacher(larger))
    said, wanted = network(image)
    assert said.shape == wanted.shape


def test_a_teacher_may_give_projections(tmp_path: Path) -> None:
    whole = SimCLR(build_resnet_sk("small"))
    whole.encoder.licence = "Apache-2.0"
    network = Distillation(student("image"), PooledHead(256, 128), nn.Sequential(whole.encoder, whole.head))
    image = images()
    torch.testing.assert_close(network(image)[1], whole.project(image))
    save_expert(network, tmp_path / "image.safetensors")
    assert ExpertFile.read(tmp_path / "image.safetensors").licence == "Apache-2.0"


def test_mixed_precision_trains_too() -> None:
    network, image = patch_level(), images()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(image)
    ReconstructionLoss()(output).backward()
    assert all(weight.grad is not None for weight in network.parameters() if weight.requires_grad)


def test_the_expert_is_saved_alone_with_its_teachers_licence(tmp_path: Path) -> None:
    network = patch_level()
    assert network.teacher is not None
    step(network)
    network.teacher.licence = "CC BY-NC 4.0"  # type: ignore[assignment]
    save_expert(network, tmp_path / "patch.safetensors")
    file = ExpertFile.read(tmp_path / "patch.safetensors")
    assert (file.level, file.licence) == ("patch", "CC BY-NC 4.0")
    trained = expert_state(network.student.image_encoder, "patch")
    assert all(torch.equal(file.state[name], weight) for name, weight in trained.items())
    assert any(weight.any() for name, weight in file.state.items() if name.endswith("_up"))


def test_without_a_teacher_there_is_no_licence_but_one_may_be_given(tmp_path: Path) -> None:
    save_expert(pixel_level(), tmp_path / "pixel.safetensors")
    assert ExpertFile.read(tmp_path / "pixel.safetensors").licence == ""
    save_expert(pixel_level(), tmp_path / "other.safetensors", licence="CC0")
    assert ExpertFile.read(tmp_path / "other.safetensors").licence == "CC0"
