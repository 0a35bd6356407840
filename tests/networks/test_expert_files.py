# SPDX-License-Identifier: Apache-2.0
"""Files of experts: they come back as they were, and what does not fit is refused before anything changes."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from safetensors import safe_open
from safetensors.torch import save, save_file

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.base_hash import base_hash
from monai_ext.networks.checkpoints.bound_weights import BoundWeights
from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.checkpoints.sam_encoder import load_sam_encoder
from monai_ext.networks.layers.lora_experts import expert_state
from monai_ext.networks.nets.experts_encoder import ExpertsEncoder
from monai_ext.networks.nets.sam import build_plain_sam, build_published_encoder, build_sam_encoder

NAMES = ("image", "patch", "pixel")


def build(seed: int = 0, side: int = 64, sam_type: str = "vit_tiny", **knobs: Any) -> ExpertsEncoder:
    """An encoder whose experts are trained; the seed is that of its frozen weights."""
    torch.manual_seed(seed)
    encoder = ExpertsEncoder(build_published_encoder(sam_type, side), **{"experts": NAMES, "rank": 2, **knobs})
    for name, weight in encoder.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.3)
    return encoder


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    encoder = build(alpha=3.0)
    file = ExpertFile.of(encoder, "patch", "CC BY-NC 4.0: its teacher was trained so", "the file vit.pth")
    file.write(tmp_path / "patch.safetensors")
    found = ExpertFile.read(tmp_path / "patch.safetensors")
    assert (found.level, found.rank, found.alpha) == ("patch", 2, 3.0)
    assert (found.licence, found.teacher) == (file.licence, "the file vit.pth")
    assert found.base == base_hash(encoder)
    assert all(torch.equal(weight, expert_state(encoder, "patch")[name]) for name, weight in found.state.items())


def test_its_notes_can_be_read_by_anyone(tmp_path: Path) -> None:
    ExpertFile.of(build(), "pixel").write(tmp_path / "pixel.safetensors")
    with safe_open(tmp_path / "pixel.safetensors", framework="pt") as file:
        notes = file.metadata()
    assert set(notes) == {"format", "base", "level", "rank", "alpha", "licence", "teacher"}
    assert (notes["format"], notes["level"], notes["rank"]) == ("monai_ext.expert.1", "pixel", "2")


def test_one_of_vit_b_takes_less_than_a_megabyte() -> None:
    with torch.device("meta"):
        encoder = ExpertsEncoder(build_published_encoder("vit_b", 1024), ("image",), rank=4)
    shapes = {name: weight.shape for name, weight in encoder.state_dict().items() if "lora_" in name}
    size = len(save({name: torch.zeros(shape) for name, shape in shapes.items()}, {"base": 64 * "0"}))
    assert 147_456 * 4 < size < 620_000


def test_an_expert_of_one_size_fits_the_same_encoder_at_another(tmp_path: Path) -> None:
    small, large = build(experts=("pixel",)), build(side=96)
    ExpertFile.of(small, "pixel").write(tmp_path / "pixel.safetensors")
    ExpertFile.read(tmp_path / "pixel.safetensors").load_into(large)
    wanted, found = expert_state(small, "pixel"), expert_state(large, "pixel")
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


@pytest.mark.parametrize(
    ("source", "name", "told"),
    [
        ({}, "image", r"x\.pt: is the expert of level 'pixel', not 'image'; give the image expert"),
        ({"seed": 1}, None, r"x\.pt: was trained on another frozen encoder \(hash \w{12}, .*pretrained\) first"),
        ({"rank": 3}, None, r"x\.pt: has rank 3 and alpha 3, this network 2 and 2; set lora_rank and lora_alpha"),
        ({"alpha": 4.0}, None, "has rank 2 and alpha 4"),
        ({"blocks": [0, 3]}, None, r"x\.pt: .*missing: blocks\.1\.attn\.qkv\.lora_q_down 2x192"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_changes_nothing(
    source: dict[str, Any], name: str | None, told: str
) -> None:
    encoder = build()
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(InputError, match=told) as error:
        ExpertFile.of(build(**source), "pixel").load_into(encoder, name, "x.pt")
    assert "\n" not in str(error.value)
    assert all(torch.equal(weight, before[place]) for place, weight in encoder.state_dict().items())


def test_a_renamed_level_is_meant_and_taken() -> None:
    encoder = build()
    dataclasses.replace(ExpertFile.of(encoder, "pixel"), level="image").load_into(encoder)
    image, pixel = (expert_state(encoder, name) for name in ("image", "pixel"))
    assert all(torch.equal(image[name], weight) for name, weight in pixel.items())


def test_files_that_are_no_experts_are_named(tmp_path: Path) -> None:
    other, plain, bare = (tmp_path / f"{name}.safetensors" for name in ("other", "plain", "bare"))
    BoundWeights("task", "0", {"a": torch.zeros(1)}).write(other)
    save_file({"a": torch.zeros(1)}, plain)
    BoundWeights("expert", "0", {"a": torch.zeros(1)}, {"level": "pixel", "rank": "four"}).write(bare)
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pt")
    (tmp_path / "cut.safetensors").write_bytes(other.read_bytes()[:40])
    for path, told in {
        other: "no file of kind 'expert'.*monai_ext.task.1",
        plain: "no file of kind 'expert' .it has no notes",
        bare: "notes must have level, rank and alpha",
        tmp_path / "old.pt": "must be a .safetensors file",
        tmp_path / "cut.safetensors": "no readable safetensors file",
        tmp_path / "none.safetensors": "no such file",
    }.items():
        with pytest.raises(InputError, match=told):
            ExpertFile.read(path)


def test_another_ending_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expert\.pt: must end in \.safetensors"):
        ExpertFile.of(build(), "pixel").write(tmp_path / "expert.pt")
    assert list(tmp_path.iterdir()) == []


def test_the_hash_is_of_the_frozen_weights_alone() -> None:
    encoder = build()
    expected = base_hash(encoder)
    assert expected == base_hash(build(experts=(), side=96))
    assert expected == base_hash(encoder.double().float())
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "lora_" in name or "pos" in name:
                weight.add_(1.0)
    assert base_hash(encoder) == expected
    with torch.no_grad():
        encoder.neck[0].weight[0, 0] += 1e-3
    assert base_hash(encoder) != expected


def test_an_encoder_alone_takes_its_part_of_published_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    sam = build_plain_sam("vit_tiny", 96)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    encoder = load_sam_encoder(build(side=64), tmp_path / "sam.pth")
    assert base_hash(encoder) == base_hash(sam.image_encoder)
    same = load_sam_encoder(build(side=96, experts=()), tmp_path / "sam.pth")
    assert all(torch.equal(w, same.state_dict()[n]) for n, w in sam.image_encoder.state_dict().items())


def test_published_weights_of_another_type_are_named_and_none_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(build_plain_sam("vit_tiny", 64).state_dict(), tmp_path / "sam.pth")
    with torch.device("meta"):
        encoder = build_sam_encoder("vit_b", 64)
    with pytest.raises(InputError, match=r"sam\.pth \(vit_tiny, image_size 64\): does not fit"):
        load_sam_encoder(encoder, tmp_path / "sam.pth")
    load_sam_encoder(encoder, None)
    assert "encoder is random" in caplog.text
