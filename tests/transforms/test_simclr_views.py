# SPDX-License-Identifier: Apache-2.0
"""Two views are drawn apart, from the image alone, and stay in its range."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ext.transforms import simclr_views

PLAIN = {"image_size": 32, "crop_scale": 1.0, "jitter": 0.0, "blur_prob": 0.0}


def image(channels: int = 1) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(channels, 32, 32)


def symmetries(picture: Tensor) -> list[Tensor]:
    turned = [torch.rot90(picture, turns, (1, 2)) for turns in range(4)]
    return turned + [each.flip(1) for each in turned]


def test_without_crop_jitter_and_blur_each_view_is_a_turn_or_a_mirror_image() -> None:
    views = simclr_views(**PLAIN).set_random_state(seed=0)  # type: ignore[arg-type]
    seen: set[tuple[int, int]] = set()
    for _ in range(80):
        pair = views({"image": image()})["image"]
        place = [
            next(i for i, each in enumerate(symmetries(image())) if torch.allclose(each[0], view, atol=1e-5))
            for view in pair
        ]
        seen.add((place[0], place[1]))
    assert {first for first, _ in seen} == {second for _, second in seen} == set(range(8))
    assert len(seen) > 35  # of 64 pairs: what one view is does not tell the other


def test_views_keep_size_range_and_channels() -> None:
    views = simclr_views(image_size=24).set_random_state(seed=1)
    for _ in range(20):
        item = views({"image": image(3), "case": "a"})
        assert item["image"].shape == (6, 24, 24)
        assert 0 <= float(item["image"].min()) <= float(item["image"].max()) <= 1
        assert set(item) == {"image", "case"}


def test_crops_keep_at_least_the_part_that_was_asked_for() -> None:
    views = simclr_views(image_size=32, crop_scale=0.25, jitter=0.0, blur_prob=0.0).set_random_state(seed=2)
    ramp = torch.stack(torch.meshgrid(torch.linspace(0, 1, 65), torch.linspace(0, 1, 65), indexing="ij"))
    spans = []
    for _ in range(40):
        rows, columns = views({"image": ramp})["image"][:2]
        spans += [float(rows.max() - rows.min()), float(columns.max() - columns.min())]
    assert 0.4 < min(spans) < 0.6  # half of a side, less what resizing smooths away
    assert max(spans) > 0.9


def test_the_seed_decides_and_each_draw_is_another() -> None:
    views = simclr_views(image_size=32)
    first, second = (views.set_random_state(seed=3)({"image": image()})["image"] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, views({"image": image()})["image"])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"crop_scale must be in \(0, 1\], got 0"):
        simclr_views(crop_scale=0)
    with pytest.raises(ValueError, match="jitter must be in"):
        simclr_views(jitter=1.0)
