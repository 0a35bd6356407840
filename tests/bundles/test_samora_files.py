# SPDX-License-Identifier: Apache-2.0
"""SAMora's experts and tasks in files: which fit, which are refused, and what each of them is worth."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from samora.network import LEVELS, SAMora

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.layers.lora_experts import expert_state, load_expert
from monai_ext.networks.nets.expert_student import ExpertStudent
from tests.bundles.test_samora_network import build, images, start


def expert_files(folder: Path, seed: int = 0, licence: str = "", **knobs: Any) -> dict[str, str]:
    """Three students, trained as it were, of one frozen encoder; each writes its file."""
    files = {}
    for index, level in enumerate(LEVELS):
        torch.manual_seed(seed)
        student = ExpertStudent(level, **{"sam_type": "vit_tiny", "image_size": 96, **knobs})
        torch.manual_seed(10 + index)
        for weight in filter(lambda weight: weight.requires_grad, student.parameters()):
            nn.init.normal_(weight, std=0.2)
        files[level] = str(folder / f"{level}.safetensors")
        ExpertFile.of(student.image_encoder, level, licence).write(files[level])
    return files


def moved(experts: tuple[str, ...] = LEVELS) -> SAMora:
    """A network whose encoder is the one that the experts were trained on, and whose HL-Attn has been trained."""
    network = start(experts=experts)
    for name, weight in network.named_parameters():
        if name.startswith("hl_attention"):
            nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(weight.numel()))
    return network


def test_experts_of_another_size_are_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    files = expert_files(tmp_path, licence="not for commercial use")
    network = moved().load_experts(files)
    for level in LEVELS:
        state = ExpertFile.read(files[level]).state
        assert all(torch.equal(w, state[n]) for n, w in expert_state(network.image_encoder, level).items())
    assert "The licence of the patch expert says: not for commercial use" in caplog.text


def test_swapping_two_experts_changes_the_result(tmp_path: Path) -> None:
    network, batch = moved().load_experts(expert_files(tmp_path)), images()
    results = []
    for first, second in (("image", "image"), ("image", "patch"), ("patch", "pixel"), ("image", "pixel")):
        swapped = copy.deepcopy(network)
        load_expert(swapped.image_encoder, first, expert_state(network.image_encoder, second))
        load_expert(swapped.image_encoder, second, expert_state(network.image_encoder, first))
        with torch.no_grad():
            results.append(swapped(batch))
    assert all((result - results[0]).abs().max() > 1e-4 for result in results[1:])


@pytest.mark.parametrize(
    ("experts", "told"),
    [
        (("image", "pixel"), "without the patch expert.*image queries pixel in one level"),
        (("patch",), "without the image, pixel expert.*the patch expert is used by itself"),
        ((), "without the image, patch, pixel expert.*the plain encoder"),
    ],
)
def test_removing_experts_works_and_is_logged(
    experts: tuple[str, ...], told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = expert_files(tmp_path)
    whole = moved().load_experts(files)
    part = moved(experts).load_experts({level: files[level] for level in experts})
    assert re.search(told, caplog.text)
    with torch.no_grad():
        assert (part(images()) - whole(images())).abs().max() > 1e-4


def test_the_scope_is_the_whole_image_or_the_windows_of_each_block() -> None:
    scopes = {
        scope: [fusion.levels[0].window_size for fusion in start(hl_scope=scope).hl_attention.values()]
        for scope in ("full", "window")
    }
    assert scopes == {"full": [0] * 6, "window": [14, 14, 0, 14, 14, 0]}


def test_the_order_of_levels_is_not_that_of_the_argument() -> None:
    assert build(experts=("pixel", "image", "patch")).experts == LEVELS


def test_missing_files_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    moved().load_experts({"image": expert_files(tmp_path)["image"], "patch": None})
    assert "No file is given for the patch, pixel expert(s)" in caplog.text


@pytest.mark.parametrize(
    ("made", "knobs", "wrong", "told"),
    [
        ({}, {}, {"image": "pixel"}, r"pixel\.safetensors: is the expert of level 'pixel', not 'image'"),
        ({"seed": 1}, {}, {"image": "image"}, "was trained on another frozen encoder"),
        ({"lora_rank": 2}, {}, {"image": "image"}, "has rank 2 and alpha 2, this network 4 and 4"),
        ({}, {"experts": ("pixel",)}, {"image": "image"}, "the network's are: pixel; set experts"),
        ({}, {}, {"liver": "image"}, "expert 'liver'"),
    ],
)
def test_experts_that_do_not_fit_are_refused(
    made: dict[str, Any], knobs: dict[str, Any], wrong: dict[str, str], told: str, tmp_path: Path
) -> None:
    files = expert_files(tmp_path, **made)
    with pytest.raises(InputError, match=told):
        start(**knobs).load_experts({level: files[name] for level, name in wrong.items()})


@pytest.mark.parametrize("decoder", ["samed", "hsam"])
def test_a_task_holds_all_but_the_frozen_encoder_and_comes_back_exactly(decoder: str, tmp_path: Path) -> None:
    network, other = build(decoder=decoder), start(seed=0, decoder=decoder)
    other.image_encoder.load_state_dict(
        {n: w for n, w in network.image_encoder.state_dict().items() if "lora_" not in n}, strict=False
    )
    network.save_task(tmp_path / "task.safetensors")
    other.load_task(tmp_path / "task.safetensors")
    with torch.no_grad():
        assert torch.equal(other(images()), network(images()))
    frozen = sum(w.numel() for n, w in network.image_encoder.state_dict().items() if "lora_" not in n)
    rest = sum(w.numel() for w in network.state_dict().values()) - frozen
    assert 4 * rest < (tmp_path / "task.safetensors").stat().st_size < 4 * rest + 50_000


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"num_classes": 3}, "mask_tokens.weight is 2x256, must be 3x256"),
        ({"experts": ("image", "pixel")}, "unexpected"),
        ({"seed": 1}, "was trained on another frozen encoder"),
        ({"decoder": "hsam"}, "was saved with decoder 'samed', this network's is 'hsam'; set decoder"),
    ],
)
def test_a_task_of_another_network_is_refused_and_changes_nothing(
    knobs: dict[str, Any], told: str, tmp_path: Path
) -> None:
    start().save_task(tmp_path / "task.safetensors")
    network = start(**knobs)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match=told):
        network.load_task(tmp_path / "task.safetensors")
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
