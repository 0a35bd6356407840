# SPDX-License-Identifier: Apache-2.0
"""Pictures of any size inside a square, as Segment Anything's own transforms place them, and back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from segment_anything.utils.transforms import ResizeLongestSide

from monai_ext.networks.layers.letterbox import Letterbox
from monai_ext.networks.layers.mask_boxes import mask_boxes

SIZES = [(50, 97), (97, 50), (64, 64), (1, 300), (300, 1), (63, 64), (255, 256), (1000, 7)]


def frame_of(height: int, width: int, side: int = 64) -> Letterbox:
    return Letterbox.of(torch.zeros(1, 1, height, width), side)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_picture_takes_the_place_that_sam_gives_it(height: int, width: int) -> None:
    frame = frame_of(height, width)
    published = ResizeLongestSide.get_preprocess_shape(height, width, 64)
    assert (frame.inner_height, frame.inner_width) == tuple(max(side, 1) for side in published)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_padding_fills_the_square_and_restoring_gives_the_picture_back(height: int, width: int) -> None:
    frame = frame_of(height, width)
    square = frame.pad(frame.fit(torch.rand(2, 3, height, width)))
    assert square.shape == (2, 3, 64, 64)
    assert frame.restore(torch.rand(2, 1, 16, 16)).shape == (2, 1, height, width)
    assert square[..., frame.inner_height :, :].abs().sum() == square[..., frame.inner_width :].abs().sum() == 0


def test_a_smooth_picture_survives_the_way_there_and_back() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 60), indexing="ij")
    picture = (rows + 2 * columns)[None, None]
    frame = Letterbox.of(picture, 64)
    back = frame.restore(frame.pad(frame.fit(picture)))
    torch.testing.assert_close(back[..., 4:-4, 4:-4], picture[..., 4:-4, 4:-4], atol=0.02, rtol=0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_box_of_a_mask_becomes_the_box_of_the_scaled_mask(height: int, width: int) -> None:
    # by a whole factor, where nearest neighbours leave no doubt what the scaled mask is
    mask = torch.zeros(1, 1, 7, 16)
    mask[..., 2:5, 3:9] = 1
    frame = Letterbox.of(mask, 64)
    boxes, _ = mask_boxes(mask[:, 0] > 0)
    scaled, _ = mask_boxes(F.interpolate(mask, scale_factor=4)[:, 0] > 0)
    assert frame.boxes_into(boxes).tolist() == scaled.tolist()
    whole = torch.tensor([[0.0, 0.0, width - 1.0, height - 1.0]])
    other = frame_of(height, width)
    inside = torch.tensor([[0.0, 0.0, other.inner_width - 1.0, other.inner_height - 1.0]])
    torch.testing.assert_close(other.boxes_into(whole), inside)
    torch.testing.assert_close(other.boxes_back(inside), whole)


def test_points_go_from_centre_to_centre() -> None:
    frame = Letterbox.of(torch.zeros(1, 1, 16, 16), 64)
    points = torch.tensor([[0.0, 0.0], [15.0, 7.5]])
    assert frame.points_into(points).tolist() == [[1.5, 1.5], [61.5, 31.5]]
    assert frame.points_back(frame.points_into(points)).tolist() == points.tolist()


def test_without_scaling_coordinates_are_those_of_sam() -> None:
    frame, boxes = frame_of(50, 64), torch.tensor([[10.0, 5.0, 40.0, 30.0]])
    published = ResizeLongestSide(64).apply_boxes_torch(boxes, (50, 64))
    torch.testing.assert_close(frame.boxes_into(boxes), published)
    torch.testing.assert_close(frame.points_into(boxes[:, :2]), published[:, :2])


def test_cropped_masks_hold_every_cell_that_shows_the_picture() -> None:
    assert frame_of(50, 97).crop(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 9, 16)  # 33 of 64 rows, cells of 4
    assert frame_of(64, 64).crop(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 16, 16)


def test_a_mask_of_the_pictures_own_size_comes_back_as_it_is() -> None:
    masks = torch.randn(1, 1, 16, 16)
    assert torch.equal(frame_of(16, 16).restore_at_once(masks), masks)
    assert torch.equal(frame_of(12, 16).restore_at_once(masks), masks[..., :12, :])
    between = frame_of(50, 97)  # 33 of 64 rows are no whole number of cells of 4
    assert torch.equal(between.restore_at_once(masks), between.restore(masks))
