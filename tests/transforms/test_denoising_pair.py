# SPDX-License-Identifier: Apache-2.0
"""Noise on the image alone, as strong as asked, and drawn by the seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ext.transforms import denoising_pair


def clean() -> Tensor:
    return torch.linspace(0, 1, 128 * 128).reshape(1, 128, 128)


@pytest.mark.parametrize("noise_sigma", [0.1, 0.3])
def test_doing_nothing_costs_the_square_of_the_deviation(noise_sigma: float) -> None:
    item = denoising_pair(noise_sigma).set_random_state(seed=0)({"image": clean()})
    error = item["image"] - item["label"]
    assert torch.equal(item["label"], clean())
    assert float(error.square().mean()) == pytest.approx(noise_sigma**2, rel=0.05)
    assert float(error.mean()) == pytest.approx(0, abs=0.01)


def test_values_leave_the_range_unless_clipped() -> None:
    plain = denoising_pair().set_random_state(seed=0)({"image": clean()})["image"]
    clipped = denoising_pair(noise_clip=True).set_random_state(seed=0)({"image": clean()})["image"]
    assert plain.min() < 0
    assert plain.max() > 1
    torch.testing.assert_close(clipped, plain.clamp(0, 1))


def test_a_blur_takes_noise_away() -> None:
    sharp = denoising_pair().set_random_state(seed=0)({"image": clean()})
    blurred = denoising_pair(blur_prob=1.0).set_random_state(seed=0)({"image": clean()})
    errors = [float((item["image"] - item["label"]).square().mean()) for item in (sharp, blurred)]
    assert errors[1] < 0.5 * errors[0]


def test_the_seed_decides_and_each_draw_is_another() -> None:
    pair = denoising_pair()
    first, second = (pair.set_random_state(seed=1)({"image": clean()})["image"] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, pair({"image": clean()})["image"])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="noise_sigma must be at least 0, got -1"):
        denoising_pair(-1)
    with pytest.raises(ValueError, match=r"blur_prob must be in \[0, 1\], got 2"):
        denoising_pair(blur_prob=2)
