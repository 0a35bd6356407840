# SPDX-License-Identifier: Apache-2.0
"""A teacher's weights get to where they belong, and nobody learns from random ones by mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from monai_ext.errors import InputError
from monai_ext.files import sha256_of
from monai_ext.networks.blocks.grid_head import GridHead
from monai_ext.networks.blocks.pooled_head import PooledHead
from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.checkpoints.load_teacher import UNTRAINED, load_teacher
from monai_ext.networks.checkpoints.save_expert import save_expert
from monai_ext.networks.checkpoints.teacher_file import save_teacher
from monai_ext.networks.nets.distillation import Distillation
from monai_ext.networks.nets.expert_student import ExpertStudent
from monai_ext.networks.nets.mae import MaskedAutoencoder, build_mae
from monai_ext.networks.nets.mae_encoder import build_mae_encoder
from monai_ext.networks.nets.resnet_sk import build_resnet_sk
from monai_ext.networks.nets.simclr import SimCLR
from monai_ext.networks.nets.simclr_teacher import build_simclr_teacher

SIDE = 32


def student(level: str) -> ExpertStudent:
    return ExpertStudent(level, sam_type="vit_tiny", image_size=SIDE)


def image_level(feature: str = "pooled") -> Distillation:
    teacher = build_simclr_teacher("small", teacher_feature=feature)
    return Distillation(student("image"), PooledHead(256, teacher.out_channels), teacher)


def patch_level() -> Distillation:
    teacher = build_mae_encoder("small", SIDE)
    return Distillation(student("patch"), GridHead(256, teacher.out_channels, teacher.grid), teacher)


@pytest.mark.parametrize("feature", ["pooled", "projection"])
def test_simclrs_weights_teach_as_they_were_saved(feature: str, tmp_path: Path) -> None:
    trained, path = SimCLR(build_resnet_sk("small")).eval(), tmp_path / "teacher.safetensors"
    nn.init.normal_(trained.head.layers[-1].running_mean)  # type: ignore[arg-type]
    save_teacher(trained, path, "Apache-2.0")
    network, image = image_level(feature), torch.rand(2, 1, SIDE, SIDE)
    load_teacher(network, path)
    wanted = trained.project(image) if feature == "projection" else trained.encoder(image)
    torch.testing.assert_close(network.teach(image), wanted)


def test_masked_autoencoders_teach_as_they_were_saved(tmp_path: Path) -> None:
    trained, path = build_mae("small", SIDE).eval(), tmp_path / "teacher.safetensors"
    save_teacher(trained, path)
    network, image = patch_level(), torch.rand(2, 1, SIDE, SIDE)
    load_teacher(network, path)
    torch.testing.assert_close(network.teach(image), trained.features(image))


def test_the_expert_tells_who_taught_it(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_teacher(build_mae("small", SIDE), path, "not for sale")
    for given, words, licence in (
        (path, f"theirs.safetensors (SHA-256 {sha256_of(path)})", "not for sale"), (None, UNTRAINED, ""),
    ):  # fmt: skip
        network = patch_level()
        load_teacher(network, given, untrained_teacher=True)
        save_expert(network, tmp_path / "expert.safetensors")
        file = ExpertFile.read(tmp_path / "expert.safetensors")
        assert (file.teacher, file.licence) == (words, licence)


@pytest.mark.parametrize(
    ("build", "where"),
    [
        (image_level, "r50_2x_sk1 .gs://simclr-checkpoints"),
        (lambda: SimCLR(build_resnet_sk("small")), "r50_2x_sk1 .gs://simclr-checkpoints"),
        (patch_level, "mae_pretrain_vit_large.pth .https://"),
        (lambda: build_mae("small", SIDE), "mae_pretrain_vit_large.pth .https://"),
    ],
)
def test_without_weights_it_says_where_to_get_them(
    build: Callable[[], Distillation | SimCLR | MaskedAutoencoder], where: str
) -> None:
    network = build()
    with pytest.raises(InputError, match=f"teacher_path is not set: give .*{where}.*untrained_teacher") as error:
        load_teacher(network, None)
    assert "\n" not in str(error.value)
    load_teacher(network, None, untrained_teacher=True)


def test_a_teacher_of_projections_needs_a_file_with_a_head(tmp_path: Path) -> None:
    save_teacher(build_resnet_sk("small"), tmp_path / "bare.safetensors")
    load_teacher(image_level(), tmp_path / "bare.safetensors")
    load_teacher(SimCLR(build_resnet_sk("small")), tmp_path / "bare.safetensors")  # it gets a new one
    with pytest.raises(InputError, match=r"bare\.safetensors: has no projection head.*pooled"):
        load_teacher(image_level("projection"), tmp_path / "bare.safetensors")


def test_the_file_of_the_other_level_is_refused(tmp_path: Path) -> None:
    save_teacher(build_mae("small", SIDE), tmp_path / "mae.safetensors")
    with pytest.raises(InputError, match=r"mae\.safetensors"):
        load_teacher(image_level(), tmp_path / "mae.safetensors")


def test_a_distillation_without_a_teacher_is_an_error() -> None:
    with pytest.raises(ValueError, match="teacher must be"):
        load_teacher(Distillation(student("image"), PooledHead(256, 8)), None, untrained_teacher=True)
