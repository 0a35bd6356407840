# SPDX-License-Identifier: Apache-2.0
"""The student of stage 1: one expert trains inside a frozen encoder that all students share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_ext.networks.checkpoints.base_hash import base_hash
from monai_ext.networks.nets.expert_student import ExpertStudent

SIDE = 64


def build(level: str = "pixel", **knobs: Any) -> ExpertStudent:
    torch.manual_seed(0)
    return ExpertStudent(level, **{"sam_type": "vit_tiny", "image_size": SIDE, **knobs})


def images(channels: int = 1) -> Tensor:
    return torch.rand(2, channels, SIDE, SIDE)


def test_a_step_changes_the_expert_and_nothing_else_bit_for_bit() -> None:
    student = build().train()
    before = {name: weight.detach().clone() for name, weight in student.named_parameters()}
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        student(images()).square().mean().backward()
        optimizer.step()
    changed = {name for name, weight in student.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".experts.pixel.lora_" in name}
    assert len(changed) == 4 * 6


@pytest.mark.parametrize(("sam_type", "expected"), [("vit_b", 147_456), ("vit_l", 393_216), ("vit_h", 655_360)])
def test_what_trains_has_the_known_number_of_parameters(sam_type: str, expected: int) -> None:
    with torch.device("meta"):
        student = ExpertStudent("image", sam_type=sam_type)
    assert sum(weight.numel() for weight in student.parameters() if weight.requires_grad) == expected


def test_pixels_are_normalised_as_asked() -> None:
    plain, scaled = build(), build(pixel_mean=(0.1, 0.2, 0.3), pixel_std=(0.5, 1.0, 2.0))
    image = images(3)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
    by_hand = (image - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        for student in (plain, scaled):
            student.in_channels = 3
        torch.testing.assert_close(scaled(image), plain(by_hand))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_repeated_or_averaged(channels: int) -> None:
    image = images(channels)
    with torch.no_grad():
        grey = build(in_channels=3)(image.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1))
        torch.testing.assert_close(build(in_channels=channels)(image), grey, atol=1e-5, rtol=1e-5)


def test_students_of_one_seed_share_their_frozen_encoder_at_any_size() -> None:
    same = [build("pixel"), build("image", image_size=96, lora_rank=2)]
    torch.manual_seed(1)
    other = ExpertStudent("pixel", sam_type="vit_tiny", image_size=SIDE)
    hashes = [base_hash(student.image_encoder) for student in (*same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_image_of_another_form_is_named() -> None:
    with pytest.raises(ValueError, match="batch, 1, height"):
        build()(images(2))
    with pytest.raises(ValueError, match="3, 64, 64"):
        build()(torch.rand(1, 1, 96, 96))
