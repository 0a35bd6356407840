# SPDX-License-Identifier: Apache-2.0
"""The published evaluation, against a naive one of it and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from monai_ext.metrics import published_protocol, segmentation_scores


def slice_stack(shape: tuple[int, int, int] = (64, 64, 9)) -> tuple[np.ndarray, np.ndarray]:
    """A label on the slices 2 to 6, but not on 4, and a prediction on all of them, with specks."""
    label = np.zeros((1, *shape), np.uint8)
    label[0, 20:40, 24:44, 2:7] = 1
    label[..., 4] = 0
    random = np.random.default_rng(0)
    prediction = (gaussian_filter(random.random(label.shape), (0, 1.5, 1.5, 0)) > 0.5).astype(np.uint8)
    return prediction, label


def published(prediction: np.ndarray, label: np.ndarray, border: int, area: int) -> tuple[np.ndarray, np.ndarray]:
    """The published steps one after the other, by Segment Anything's own function."""
    from segment_anything.utils.amg import remove_small_regions

    places = np.flatnonzero(label.any(axis=(0, 1, 2)))
    masks, truths = [], []
    for z in range(places[0], places[-1]):
        if label[0, ..., z].sum() > 0:
            mask, _ = remove_small_regions(prediction[0, ..., z] > 0, area, "holes")
            mask, _ = remove_small_regions(mask, area, "islands")
            mask = mask.copy()
            mask[:border] = mask[-border:] = mask[:, :border] = mask[:, -border:] = 0
            masks.append(mask)
            truths.append(label[0, ..., z])
    return np.stack(masks, -1), np.stack(truths, -1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_it_takes_the_published_steps(axis: int) -> None:
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    prediction, label = slice_stack((128, 128, 9))
    expected = published(prediction, label, border=25, area=250)  # 50 of 256 and 1000 of 65536, at 128
    turned = [np.moveaxis(volume, 3, axis + 1) for volume in (prediction, label)]
    found = published_protocol(*turned, axis=axis)
    assert found is not None
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.moveaxis(got, axis + 1, 3)[0], wanted)
    assert expected[0].any()


def test_the_slices_with_truth_but_the_last_are_kept() -> None:
    prediction, label = slice_stack()
    found = published_protocol(prediction, label, axis=2)
    assert found is not None
    np.testing.assert_array_equal(found[1], label[..., [2, 3, 5]])
    found = published_protocol(prediction, label, axis=2, drop_last=False)
    assert found is not None
    np.testing.assert_array_equal(found[1], label[..., [2, 3, 5, 6]])


def test_nothing_is_taken_away_by_zeros() -> None:
    prediction, label = slice_stack()
    found = published_protocol(prediction, label, axis=2, border=0, min_region=0, drop_last=False)
    assert found is not None
    np.testing.assert_array_equal(found[0], prediction[..., [2, 3, 5, 6]])


def test_the_border_is_a_share_of_each_axis() -> None:
    ones = np.ones((1, 256, 128, 2), np.uint8)
    found = published_protocol(ones, ones, axis=2)
    assert found is not None
    assert np.argwhere(found[0][0, ..., 0]).min(axis=0).tolist() == [50, 25]
    assert np.argwhere(found[0][0, ..., 0]).max(axis=0).tolist() == [205, 102]


def test_an_island_is_measured_before_the_border_is_cut() -> None:
    label = np.ones((1, 256, 256), np.uint8)
    prediction = np.zeros_like(label)
    prediction[0, 100:140, 100:140] = 1
    prediction[0, 20:60, 100:130] = 1  # 1200 pixels, of which 300 are inside the border
    found = published_protocol(prediction, label, axis=None)
    assert found is not None
    assert found[0].sum() == 1600 + 300


@pytest.mark.parametrize(("outer", "inner"), [(1, 2), (2, 1)])
def test_a_hole_of_one_class_that_another_fills_is_none(outer: int, inner: int) -> None:
    label = np.ones((1, 64, 64), np.uint8)
    prediction = np.zeros_like(label)
    prediction[0, 20:44, 20:44] = outer
    prediction[0, 24:30, 24:30] = inner
    prediction[0, 34:36, 34:36] = 0
    found = published_protocol(prediction, label, axis=None, border=0, min_region=40 / 64**2)
    assert found is not None
    expected = prediction.copy()
    expected[0, 34:36, 34:36] = outer
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize(("axis", "slices"), [(2, 0), (2, 1), (None, 0)])
def test_without_truth_nothing_is_left(axis: int | None, slices: int) -> None:
    label = torch.zeros(1, 8, 8, 4)
    label[..., :slices] = 1
    label = label[..., 0] if axis is None else label
    assert published_protocol(torch.ones_like(label), label, axis) is None


def test_a_picture_is_one_slice_that_stays() -> None:
    label = torch.zeros(1, 64, 64)
    label[:, 20:40, 20:40] = 1
    found = published_protocol(label.bfloat16(), label, axis=None)
    assert found is not None
    assert segmentation_scores(*found, 1, (1, 1))[0]["dice"] == 1


def test_tensors_and_arrays_give_the_same_and_stay_as_they_are() -> None:
    prediction, label = slice_stack()
    before = prediction.copy()
    arrays = published_protocol(prediction, label, axis=2)
    tensors = published_protocol(torch.from_numpy(prediction), torch.from_numpy(label), axis=2)
    np.testing.assert_array_equal(prediction, before)
    assert arrays is not None
    assert tensors is not None
    np.testing.assert_array_equal(arrays[0], tensors[0])


@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 4, 4), 0), ((1, 4, 4, 4), None), ((2, 4, 4, 4), 0), ((1, 4, 4, 4), 3)]
)
def test_a_wrong_shape_or_axis_is_refused(shape: tuple[int, ...], axis: int | None) -> None:
    with pytest.raises(ValueError, match=r"must (both )?be"):
        published_protocol(np.ones(shape), np.ones(shape), axis)
