# SPDX-License-Identifier: Apache-2.0
"""Small holes and islands, against the function of Segment Anything and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from monai_ext.regions import clean_regions


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[mark == "#" for mark in row] for row in rows])


def random_masks() -> list[tuple[NDArray[np.bool_], float]]:
    random = np.random.default_rng(0)
    sizes = [tuple(random.integers(1, 30, 2)) for _ in range(300)]
    noise = [random.random(size) < random.random() for size in sizes]
    blobs = [gaussian_filter(random.random(size), 1.2) > 0.5 for size in sizes]
    return [(mask, float(area)) for mask, area in zip(noise + blobs, random.integers(0, 40, 600), strict=True)]


def test_it_is_the_function_of_segment_anything() -> None:
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    from segment_anything.utils.amg import remove_small_regions

    changes = 0
    for mask, area in random_masks():
        filled, holes = remove_small_regions(mask, area, "holes")
        expected, islands = remove_small_regions(filled, area, "islands")
        clean, changed = clean_regions(mask, area)
        np.testing.assert_array_equal(clean, expected)
        assert changed == (holes or islands)
        changes += changed
    assert 50 < changes < 550  # both answers were asked for


def test_holes_are_filled_before_islands_are_counted() -> None:
    ring = mask_of(".....", ".###.", ".#.#.", ".###.", ".....")
    clean, changed = clean_regions(ring, min_area=9)  # eight pixels alone would be an island too small
    np.testing.assert_array_equal(clean, mask_of(".....", ".###.", ".###.", ".###.", "....."))
    assert changed


def test_corners_touch_in_islands_and_in_holes() -> None:
    stairs = mask_of("#...", ".#..", "..#.", "....")
    assert clean_regions(stairs, min_area=3)[0] is stairs
    np.testing.assert_array_equal(clean_regions(~stairs, min_area=3)[0], ~stairs)
    assert clean_regions(~stairs, min_area=4)[0].all()


def test_the_largest_of_small_islands_stays_and_counts_as_changed() -> None:
    mask = mask_of("##....", "....#.", "......")
    clean, changed = clean_regions(mask, min_area=5)
    np.testing.assert_array_equal(clean, mask_of("##....", "......", "......"))
    assert changed
    again, changed = clean_regions(clean, min_area=5)
    np.testing.assert_array_equal(again, clean)
    assert changed


def test_a_part_of_exactly_the_area_is_not_small() -> None:
    mask = mask_of("##.#", "##..", "....")
    clean, changed = clean_regions(mask, min_area=4)
    np.testing.assert_array_equal(clean, mask_of("##..", "##..", "...."))
    assert changed
    assert clean_regions(clean, min_area=4) == (clean, False)


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_without_parts_stays(value: bool) -> None:
    mask = np.full((3, 4), value)
    assert clean_regions(mask, min_area=5) == (mask, False)


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros((1, 2, 2), dtype=bool)])
def test_what_is_no_plane_of_booleans_is_refused(mask: NDArray) -> None:
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(H, W\), got"):
        clean_regions(mask, min_area=1)
