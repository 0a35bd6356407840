# SPDX-License-Identifier: Apache-2.0
"""The rules by which one mask comes from many prompts: who is asked, and what is done with the answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.layers.mask_selection import (
    EMPTY_LOGIT,
    SELECTIONS,
    select,
    select_official,
    select_top1,
    select_vote,
)

SIZE = (12, 16)
IOUS = torch.tensor([0.3, 0.8, 0.9, 0.6, 0.9])


@pytest.fixture
def masks() -> Tensor:
    return 3 * torch.randn(5, *SIZE, generator=torch.Generator().manual_seed(0))


class Decoder:
    def __init__(self, masks: Tensor) -> None:
        self.masks = masks
        self.asked: list[int] = []

    def __call__(self, index: int) -> Tensor:
        self.asked.append(index)
        return self.masks[index]


def holed() -> Tensor:
    """A square of 100 pixels with logits 2, a hole of logits -3 with a pixel of 0, and an island of one pixel."""
    logits = torch.full(SIZE, -4.0)
    logits[1:11, 1:11] = 2.0
    logits[4:6, 4] = torch.tensor([-3.0, 0.0])
    logits[11, 15] = 5.0
    return logits


def test_top1_decodes_the_first_of_the_best_only(masks: Tensor) -> None:
    decoder = Decoder(masks)
    selection = select_top1(IOUS, decoder, size=SIZE)
    assert decoder.asked == [2]
    assert torch.equal(selection.logits, masks[2])
    assert selection[1:] == (2, 1, False)


def test_the_clean_up_turns_signs_and_keeps_magnitudes() -> None:
    selection = select_top1(torch.ones(1), lambda index: holed(), size=SIZE, min_region=3)
    expected = holed()
    expected[4:6, 4] = torch.tensor([3.0, 1e-3])
    expected[11, 15] = -5.0
    assert torch.equal(selection.logits, expected)
    assert selection.cleaned


def test_a_vote_is_the_weighted_mean_of_probabilities(masks: Tensor) -> None:
    decoder = Decoder(masks)
    selection = select_vote(IOUS, decoder, size=SIZE, top=3)
    assert decoder.asked == [2, 4, 1]
    assert selection[1:] == (2, 3, False)
    probabilities = torch.sigmoid(masks[[2, 4, 1]].double())
    mean = (torch.tensor([0.9, 0.9, 0.8]).reshape(3, 1, 1) * probabilities).sum(dim=0) / 2.6
    torch.testing.assert_close(selection.logits, torch.logit(mean).float(), rtol=1e-5, atol=1e-5)


def test_a_vote_of_one_is_its_mask(masks: Tensor) -> None:
    selection = select_vote(IOUS, masks.__getitem__, size=SIZE, top=1)
    torch.testing.assert_close(selection.logits, masks[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("logit", [-80.0, -25.0, 25.0, 80.0])
def test_a_vote_of_the_certain_stays_certain(logit: float) -> None:
    selection = select_vote(torch.tensor([0.9, 0.6]), lambda index: torch.full(SIZE, logit), size=SIZE, top=2)
    torch.testing.assert_close(selection.logits, torch.full(SIZE, logit), rtol=1e-5, atol=0)


def test_only_prompts_above_the_threshold_vote(masks: Tensor) -> None:
    selection = select_vote(IOUS, masks.__getitem__, size=SIZE, iou_thresh=0.8, top=5)
    assert selection.decoded == 2


def test_a_vote_is_cleaned_up_too() -> None:
    selection = select_vote(torch.tensor([0.9, 0.6]), lambda index: holed(), size=SIZE, top=2, min_region=3)
    assert int((selection.logits > 0).sum()) == 100
    assert selection.cleaned


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("ious", [[0.1, 0.5], []])
def test_no_prompt_above_the_threshold_gives_an_empty_mask_and_decodes_nothing(name: str, ious: list[float]) -> None:
    selection = select(name, torch.tensor(ious), lambda index: pytest.fail("decoded"), size=SIZE)
    assert torch.equal(selection.logits, torch.full(SIZE, EMPTY_LOGIT))
    assert selection[1:] == (-1, 0, False)


@pytest.mark.parametrize("name", SELECTIONS)
def test_half_precision_is_widened(name: str, masks: Tensor) -> None:
    selection = select(name, IOUS.half(), lambda index: masks[index].half(), size=SIZE, min_region=4)
    expected = select(name, IOUS.half(), lambda index: masks[index].half().float(), size=SIZE, min_region=4)
    assert selection.logits.dtype == torch.float32
    assert torch.equal(selection.logits, expected.logits)


def test_a_rule_called_by_its_name_gets_its_options(masks: Tensor) -> None:
    shared: dict[str, Any] = {"size": SIZE, "iou_thresh": 0.4, "min_region": 5}
    decode = masks.__getitem__
    pairs = [
        (
            select("official", IOUS, decode, nms_thresh=0.2, upscale=2, **shared),
            select_official(IOUS, decode, nms_thresh=0.2, upscale=2, **shared),
        ),
        (select("top1", IOUS, decode, **shared), select_top1(IOUS, decode, **shared)),
        (select("vote", IOUS, decode, top=2, **shared), select_vote(IOUS, decode, top=2, **shared)),
    ]
    for named, called in pairs:
        assert torch.equal(named.logits, called.logits)
        assert named[1:] == called[1:]


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="one of official, top1, vote, got 'best'"):
        select("best", IOUS, lambda index: torch.zeros(SIZE), size=SIZE)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("official", {"iou_thresh": -0.1}, "iou_thresh must be at least 0, got -0.1"),
        ("top1", {"iou_thresh": float("nan")}, "iou_thresh must be at least 0, got nan"),
        ("official", {"nms_thresh": 1.5}, r"nms_thresh must be in \[0, 1\], got 1.5"),
        ("official", {"upscale": 0}, "upscale must be at least 1, got 0"),
        ("official", {"min_region": -1}, "min_region must be at least 0, got -1"),
        ("top1", {"min_region": -1}, "min_region must be at least 0, got -1"),
        ("vote", {"min_region": -1}, "min_region must be at least 0, got -1"),
        ("vote", {"top": 0}, "top must be at least 1, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(name, IOUS, lambda index: torch.zeros(SIZE), size=SIZE, **options)


@pytest.mark.parametrize("name", SELECTIONS)
def test_masks_of_another_size_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"decode\(2\) must give logits of size \(12, 16\), got \(1, 12, 16\)"):
        select(name, IOUS, lambda index: torch.zeros(1, *SIZE), size=SIZE)


def test_ious_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(prompts,\), one predicted IoU each, got \(5, 1\)"):
        select("top1", IOUS[:, None], lambda index: torch.zeros(SIZE), size=SIZE)
