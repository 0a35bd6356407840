# SPDX-License-Identifier: Apache-2.0
"""The clean-up of small regions: Segment Anything's result to the last pixel, without OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from monai_ext.networks.layers.region_cleanup import clean_regions


def published(mask: Tensor, min_region: int) -> tuple[Tensor, bool]:
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    from segment_anything.utils.amg import remove_small_regions

    pixels, filled = remove_small_regions(mask.numpy(), min_region, mode="holes")
    pixels, dropped = remove_small_regions(pixels, min_region, mode="islands")
    return torch.from_numpy(pixels), filled or dropped


def check(mask: Tensor, min_region: int) -> bool:
    clean, changed = clean_regions(mask, min_region)
    expected, expected_changed = published(mask, min_region)
    assert torch.equal(clean, expected)
    assert changed == expected_changed
    return changed


def test_random_masks_are_cleaned_as_segment_anything_does() -> None:
    random = np.random.default_rng(0)
    changes = []
    for _ in range(400):
        noise = random.standard_normal(random.integers(1, 40, size=2))
        mask = gaussian_filter(noise, random.choice([0.0, 0.7, 2.0])) > random.choice([-0.1, 0.0, 0.2, 1.5])
        changes.append(check(torch.from_numpy(mask), int(random.choice([1, 2, 5, 12, 80]))))
    assert 100 < sum(changes) < 350


def test_of_equally_large_small_islands_the_one_that_opencv_meets_first_stays() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        spots = random.random(random.integers(2, 30, size=2)) < 0.08
        check(torch.from_numpy(spots), min_region=1000)


def test_the_first_region_is_that_of_the_first_two_by_two_block() -> None:
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[0, 30] = mask[1, 3] = True  # pixel by pixel, the one on the right would come first
    assert clean_regions(mask, min_region=5)[0].nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize(("area", "stays"), [(7, False), (8, True), (9, True)])
def test_a_region_of_just_the_area_stays(area: int, stays: bool) -> None:
    hole = torch.zeros(30, 30, dtype=torch.bool)
    hole[5:25, 5:25] = True
    hole[12, 8 : 8 + area] = False
    island = torch.zeros(30, 30, dtype=torch.bool)
    island[5:25, 5:25] = True
    island[28, 8 : 8 + area] = True
    for mask in (hole, island):
        clean, changed = clean_regions(mask, min_region=8)
        assert torch.equal(clean, mask) == stays
        assert changed != stays


def test_regions_touch_at_corners() -> None:
    diagonal = torch.eye(12, dtype=torch.bool)
    assert clean_regions(diagonal, min_region=12)[1] is False
    assert clean_regions(diagonal, min_region=13)[1] is True


def test_background_cut_off_at_the_border_is_a_hole() -> None:
    mask = torch.ones(20, 20, dtype=torch.bool)
    mask[0, 0] = False
    assert clean_regions(mask, min_region=2)[0].all()


def test_holes_are_filled_before_islands_are_measured() -> None:
    ring = torch.zeros(30, 30, dtype=torch.bool)
    ring[10:13, 10:13] = True
    ring[11, 11] = False  # eight pixels and a hole
    clean, _ = clean_regions(ring, min_region=9)
    assert int(clean.sum()) == 9


def test_a_lonely_small_island_stays_but_counts_as_changed() -> None:
    mask = torch.zeros(30, 30, dtype=torch.bool)
    mask[3:5, 3:5] = True
    clean, changed = clean_regions(mask, min_region=100)
    assert torch.equal(clean, mask)
    assert changed


@pytest.mark.parametrize("min_region", [0, 1])
def test_no_region_is_smaller_than_a_pixel(min_region: int) -> None:
    mask = torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) > 0.5
    clean, changed = clean_regions(mask, min_region)
    assert torch.equal(clean, mask)
    assert not changed


@pytest.mark.parametrize("value", [True, False])
def test_uniform_masks_are_clean(value: bool) -> None:
    mask = torch.full((20, 20), value)
    clean, changed = clean_regions(mask, min_region=100)
    assert torch.equal(clean, mask)
    assert not changed


def test_the_given_mask_is_left_alone() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[2:12, 2:12], mask[5, 5], mask[18, 18] = True, False, True
    before = mask.clone()
    clean_regions(mask, min_region=5)
    assert torch.equal(mask, before)
