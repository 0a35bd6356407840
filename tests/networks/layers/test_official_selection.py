# SPDX-License-Identifier: Apache-2.0
"""The published choice of a mask, against its pipeline carried out in full over all prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.ops.boxes import batched_nms

from monai_ext.networks.layers.official_selection import select_official

SIDE = 48
MIN_REGION = 9


class Published(NamedTuple):
    mask: Tensor
    index: int
    cleaned: bool
    needed: list[int]  # the prompts without whose masks the choice could be another, best first


class Decoder:
    """Masks of all prompts, and the record of who asked for which."""

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks
        self.asked: list[int] = []

    def __call__(self, index: int) -> Tensor:
        self.asked.append(index)
        return self.masks[index]


def through_fine_grid(masks: Tensor, upscale: int = 4) -> Tensor:
    height, width = masks.shape[-2:]
    fine = F.interpolate(masks[:, None], (upscale * height, upscale * width), mode="bilinear", align_corners=False)
    return F.interpolate(fine, (height, width), mode="bilinear", align_corners=False)


def published(
    ious: Tensor, masks: Tensor, nms_thresh: float = 0.7, min_region: int = MIN_REGION, upscale: int = 4
) -> Published:
    """All masks, one step after the other, with Segment Anything's functions; then the first record."""
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    from segment_anything.utils.amg import batched_mask_to_box, remove_small_regions

    indices = torch.arange(len(ious))[ious > 0.5]
    if len(indices) == 0:
        return Published(torch.zeros(masks.shape[-2:], dtype=torch.bool), -1, False, [])
    binary = torch.sigmoid(through_fine_grid(masks, upscale)[indices, 0]) > 0.5
    boxes = batched_mask_to_box(binary).float()
    keep = batched_nms(boxes, ious[indices], torch.zeros(len(indices)), nms_thresh)
    binary, survivors = binary[keep], indices[keep]
    scores, cleaned = [], []
    for mask in binary.numpy():
        mask, filled = remove_small_regions(mask, min_region, mode="holes")
        mask, dropped = remove_small_regions(mask, min_region, mode="islands")
        cleaned.append(torch.as_tensor(mask))
        scores.append(float(not (filled or dropped)))
    boxes = batched_mask_to_box(torch.stack(cleaned)).float()
    first = batched_nms(boxes, torch.tensor(scores), torch.zeros(len(scores)), nms_thresh)[0]
    index, changed = int(survivors[first]), scores[first] == 0
    order = indices[torch.sort(ious[indices], descending=True, stable=True).indices].tolist()
    return Published(cleaned[first], index, changed, order if changed else order[: order.index(index) + 1])


def check(ious: Tensor, masks: Tensor, expected: Published, **options: float) -> None:
    decoder = Decoder(masks)
    selection = select_official(ious, decoder, size=tuple(masks.shape[-2:]), **{"min_region": MIN_REGION, **options})
    assert torch.equal(selection.logits > 0, expected.mask)
    assert (selection.index, selection.cleaned) == (expected.index, expected.cleaned)
    assert decoder.asked == expected.needed
    assert selection.decoded == len(expected.needed)


def smooth_case(seed: int) -> tuple[Tensor, Tensor]:
    """Some prompts of one image: masks that resemble each other more or less, IoUs with ties."""
    random = np.random.default_rng(seed)
    prompts, height, width = random.integers(1, 9), *random.integers(20, 36, size=2)
    noise = random.standard_normal((prompts + 1, height, width))
    noise = gaussian_filter(noise, (0, *[random.choice([1.5, 2.5, 4.0])] * 2))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    masks = noise[1:] * random.choice([0.2, 0.6, 2.0]) + noise[0] + random.choice([-1.5, -0.5, 0.5])
    return torch.tensor(random.integers(6, 20, size=prompts) / 20).float(), torch.from_numpy(masks).float()


def drawn(*boxes: tuple[int, int, int, int], holes: tuple[tuple[int, int, int, int], ...] = ()) -> Tensor:
    """Logits that are positive inside boxes (top, left, height, width) and not in holes."""
    logits = torch.full((SIDE, SIDE), -4.0)
    for value, places in ((4.0, boxes), (-4.0, holes)):
        for top, left, height, width in places:
            logits[top : top + height, left : left + width] = value
    return logits


A, B = (5, 5, 20, 20), (28, 28, 17, 17)
SMALL_HOLE, HOLE = (10, 10, 2, 4), (10, 10, 3, 3)  # of MIN_REGION - 1 and of MIN_REGION pixels
SMALL_ISLAND, ISLAND = (30, 4, 4, 2), (30, 4, 3, 3)
SPOTS = ((3, 3, 2, 2), (8, 30, 2, 3), (40, 11, 3, 2))
CLEAN_A, CLEAN_B, EMPTY = drawn(A), drawn(B), drawn()
HOLED_A, HOLED_B = drawn(A, holes=(SMALL_HOLE,)), drawn(B, holes=((30, 30, 2, 2),))
SPOTTED_A, SPOTTED_B = drawn(A, SMALL_ISLAND), drawn(B, SMALL_ISLAND)
LINE, BROKEN_LINE = drawn((7, 3, 1, 30)), drawn((7, 3, 1, 30), holes=((7, 8, 1, 1),))
CHAIN = [drawn((5, left, 20, 20), holes=holes) for left, holes in ((5, (SMALL_HOLE,)), (8, (SMALL_HOLE,)), (11, ()))]

CASES = {
    "the best is clean": ([0.9, 0.8], [CLEAN_A, CLEAN_B], (0, 1, False)),
    "the best is not the first": ([0.6, 0.9], [CLEAN_B, CLEAN_A], (1, 1, False)),
    "a later one is clean": ([0.9, 0.8, 0.7], [HOLED_A, SPOTTED_B, drawn(A, B)], (2, 3, False)),
    "after a clean one nothing matters": ([0.9, 0.7, 0.8], [HOLED_A, HOLED_B, CLEAN_B], (2, 2, False)),
    "the only clean one is a duplicate": ([0.9, 0.8, 0.7], [HOLED_A, CLEAN_A, HOLED_B], (0, 3, True)),
    "a clean one after a duplicate": ([0.9, 0.8, 0.7], [HOLED_A, CLEAN_A, CLEAN_B], (2, 3, False)),
    "what a duplicate resembles is none": ([0.9, 0.8, 0.7], CHAIN, (2, 3, False)),
    "none is clean": ([0.6, 0.8, 0.7], [HOLED_B, SPOTTED_A, SPOTTED_B], (1, 3, True)),
    "a clean one at the threshold": ([0.9, 0.5], [HOLED_A, CLEAN_B], (0, 1, True)),
    "none is above the threshold": ([0.5, 0.2], [CLEAN_A, CLEAN_B], (-1, 0, False)),
    "a tie of clean ones": ([0.7, 0.8, 0.8], [CLEAN_B, CLEAN_A, CLEAN_B], (1, 1, False)),
    "a tie of others": ([0.8, 0.8, 0.8], [SPOTTED_B, HOLED_A, HOLED_B], (0, 3, True)),
    "a tie of duplicates": ([0.8, 0.8], [HOLED_A, CLEAN_A], (0, 2, True)),
    "a hole that is large enough": ([0.9, 0.8], [drawn(A, holes=(HOLE,)), CLEAN_B], (0, 1, False)),
    "an island that is large enough": ([0.9, 0.8], [drawn(A, ISLAND), CLEAN_B], (0, 1, False)),
    "small islands only": ([0.9], [drawn(*SPOTS)], (0, 1, True)),
    "an empty mask is clean": ([0.9, 0.8], [EMPTY, CLEAN_A], (0, 1, False)),
    "an empty mask is no duplicate": ([0.9, 0.8, 0.7], [drawn((0, 0, 1, 1)), EMPTY, CLEAN_A], (1, 2, False)),
    "lines are no duplicates": ([0.9, 0.8], [BROKEN_LINE, LINE], (1, 2, False)),
    "lines in need of the clean-up": ([0.9, 0.8], [BROKEN_LINE, BROKEN_LINE], (0, 2, True)),
    "NaN is no IoU": ([float("nan"), 0.8], [CLEAN_A, CLEAN_B], (1, 1, False)),
}


@pytest.mark.parametrize(("ious", "masks", "expected"), CASES.values(), ids=CASES)
def test_drawn_masks(ious: list[float], masks: list[Tensor], expected: tuple[int, int, bool]) -> None:
    selection = select_official(torch.tensor(ious), masks.__getitem__, size=(SIDE, SIDE), min_region=MIN_REGION)
    assert selection[1:] == expected


@pytest.mark.parametrize(("ious", "masks", "expected"), CASES.values(), ids=CASES)
def test_drawn_masks_are_chosen_as_published(ious: list[float], masks: list[Tensor], expected: object) -> None:
    check(torch.tensor(ious), torch.stack(masks), published(torch.tensor(ious), torch.stack(masks)))


def test_smooth_masks_are_chosen_as_published() -> None:
    branches = []
    for seed in range(300):
        ious, masks = smooth_case(seed)
        min_region = (6, 20, 60)[seed % 3]
        expected = published(ious, masks, min_region=min_region)
        check(ious, masks, expected, min_region=min_region)
        branches.append((expected.cleaned, min(len(expected.needed), 2)))
    # nothing, the best, a later one, the cleaned of one, the cleaned of several
    counts = [branches.count(branch) for branch in ((False, 0), (False, 1), (False, 2), (True, 1), (True, 2))]
    assert min(counts) >= 10, counts


def test_the_automatic_mask_generator_has_the_same_first_record() -> None:
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    drawings = [(torch.tensor(ious), torch.stack(masks)) for ious, masks, _ in CASES.values()]
    for ious, masks in [*drawings, *(smooth_case(seed) for seed in range(300, 400))]:
        records = generated(ious, masks, min_region=MIN_REGION)
        first = torch.from_numpy(records[0]["segmentation"]) if records else torch.zeros(masks.shape[-2:]).bool()
        selection = select_official(ious, masks.__getitem__, size=tuple(masks.shape[-2:]), min_region=MIN_REGION)
        assert torch.equal(selection.logits > 0, first)


def generated(ious: Tensor, masks: Tensor, min_region: int) -> list[dict]:
    """Records of Segment Anything's own generator, for a predictor that knows these masks alone."""
    from segment_anything import SamAutomaticMaskGenerator

    model = SimpleNamespace(image_encoder=SimpleNamespace(img_size=4), mask_threshold=0.0)
    generator = SamAutomaticMaskGenerator(
        model,
        points_per_side=None,
        point_grids=[np.zeros((len(ious), 2))],
        pred_iou_thresh=0.5,
        stability_score_thresh=0.0,
        min_mask_region_area=min_region,
    )
    generator.predictor = SimpleNamespace(
        model=model,
        device=ious.device,
        transform=SimpleNamespace(apply_coords=lambda points, size: points),
        set_image=lambda image: None,
        reset_image=lambda: None,
        predict_torch=lambda *points, **options: (through_fine_grid(masks), ious[:, None], None),
    )
    return generator.generate(np.zeros((*masks.shape[-2:], 3), dtype=np.uint8))


def test_boxes_that_overlap_by_just_the_threshold_are_no_duplicates() -> None:
    ious = torch.tensor([0.9, 0.8])
    masks = torch.stack([drawn((5, 5, 21, 21), holes=(SMALL_HOLE,)), drawn((5, 5, 21, 11))])  # 20 x 20 and 20 x 10
    for nms_thresh, index in ((0.5, 1), (0.49, 0)):
        expected = published(ious, masks, nms_thresh=nms_thresh)
        assert expected.index == index
        check(ious, masks, expected, nms_thresh=nms_thresh)


@pytest.mark.parametrize("upscale", [1, 2, 3])
def test_any_finer_grid(upscale: int) -> None:
    ious, masks = smooth_case(seed=1)
    check(ious, masks, published(ious, masks, upscale=upscale), upscale=upscale)


def test_logits_take_the_detour() -> None:
    noise = torch.randn(1, 20, 24, generator=torch.Generator().manual_seed(0))
    selection = select_official(torch.ones(1), noise.__getitem__, size=(20, 24), min_region=0)
    torch.testing.assert_close(selection.logits, through_fine_grid(noise)[0, 0], rtol=0, atol=0)
    assert not torch.equal(selection.logits > 0, noise[0] > 0)


def test_without_the_clean_up_the_best_mask_wins_as_it_is() -> None:
    selection = select_official(
        torch.tensor([0.6, 0.9]), [CLEAN_B, HOLED_A].__getitem__, size=(SIDE, SIDE), min_region=0
    )
    assert torch.equal(selection.logits > 0, HOLED_A > 0)
    assert selection[1:] == (1, 1, False)


def test_a_logit_whose_probability_rounds_to_a_half_is_outside() -> None:
    faint = torch.full((1, 16, 16), 1e-8)
    expected = published(torch.ones(1), faint)
    assert not expected.mask.any()
    check(torch.ones(1), faint, expected)


def test_in_an_image_smaller_than_a_region_empty_masks_are_filled_and_no_duplicates() -> None:
    ious, masks = torch.tensor([0.9, 0.8, 0.7]), torch.stack([EMPTY, EMPTY, CLEAN_A])
    expected = published(ious, masks, min_region=SIDE * SIDE + 1)
    assert expected.mask.all()
    check(ious, masks, expected, min_region=SIDE * SIDE + 1)


def test_of_eighty_one_clean_masks_one_is_decoded() -> None:
    decoder = Decoder(CLEAN_A.expand(81, -1, -1))
    select_official(torch.linspace(0.51, 0.99, 81), decoder, size=(SIDE, SIDE), min_region=MIN_REGION)
    assert decoder.asked == [80]
