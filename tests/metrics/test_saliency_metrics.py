# SPDX-License-Identifier: Apache-2.0
"""Scores of probability maps against their definitions written naively."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from monai_ext.errors import InputError
from monai_ext.metrics import SALIENCY_SCORES, saliency_scores


def pair(seed: int, size: tuple[int, int] = (24, 30)) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that know something of a random object."""
    random = np.random.default_rng(seed)
    field = gaussian_filter(random.standard_normal(size), 3)
    field /= field.std()
    truth = (field > 0.5).astype(np.float32)
    return 1 / (1 + np.exp(-3 * field + random.standard_normal(size))), truth


def threshold_means(probability: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Dice and IoU of the mask at each of 256 thresholds, one after the other."""
    levels = np.floor(probability * 255)
    dice, iou = [], []
    for threshold in range(256):
        mask = levels >= threshold
        overlap = (mask * truth).sum()
        dice.append(2 * overlap / (mask.sum() + truth.sum()))
        iou.append(overlap / (mask.sum() + truth.sum() - overlap))
    return float(np.mean(dice)), float(np.mean(iou))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_threshold_means_equal_a_loop_over_thresholds(seed: int) -> None:
    probability, truth = pair(seed)
    scores = saliency_scores(probability, truth)
    assert (scores["mean_dice"], scores["mean_iou"]) == pytest.approx(threshold_means(probability, truth))


def test_absolute_error_and_dice_at_half_equal_their_definitions() -> None:
    probability, truth = pair(4)
    scores = saliency_scores(probability, truth)
    mask = probability > 0.5
    assert scores["mae"] == pytest.approx(np.abs(probability - truth).mean())
    assert scores["dice_at_half"] == pytest.approx(2 * (mask * truth).sum() / (mask.sum() + truth.sum()))


def test_mean_iou_is_at_least_what_convexity_demands() -> None:
    scores = [saliency_scores(*pair(seed)) for seed in range(8)]
    dice, iou = (np.mean([score[name] for score in scores]) for name in ("mean_dice", "mean_iou"))
    assert iou >= dice / (2 - dice)
    assert iou < dice


def test_a_perfect_map_has_perfect_scores() -> None:
    truth = pair(1)[1]
    scores = saliency_scores(truth, truth)
    for name in ("s_measure", "weighted_f", "dice_at_half", "adaptive_e"):
        assert scores[name] == pytest.approx(1, abs=2e-3), name
    assert scores["mae"] == 0


def test_every_score_falls_when_the_map_is_turned_into_its_opposite() -> None:
    probability, truth = pair(2)
    good, bad = saliency_scores(probability, truth), saliency_scores(1 - probability, truth)
    for name in SALIENCY_SCORES:
        assert (good[name] < bad[name]) if name == "mae" else (good[name] > bad[name]), name


def test_stretching_ignores_scale_and_offset_and_scoring_as_is_does_not() -> None:
    probability, truth = pair(3)
    probability = (probability - probability.min()) / (probability.max() - probability.min())
    weak = 0.25 + probability / 4  # a power of two, so that the 256 levels stay the same
    stretched, expected = saliency_scores(weak, truth, "paper"), saliency_scores(probability, truth, "paper")
    for name in ("s_measure", "weighted_f", "mean_e", "mae", "mean_dice"):
        assert stretched[name] == pytest.approx(expected[name], abs=1e-3)
    assert saliency_scores(weak, truth)["mean_dice"] != pytest.approx(expected["mean_dice"], abs=0.01)
    assert stretched["dice_at_half"] == saliency_scores(weak, truth)["dice_at_half"]


def test_stretching_is_what_writing_and_reading_a_picture_does() -> None:
    import py_sod_metrics

    probability, truth = pair(5)
    low, high = probability.min(), probability.max()
    picture = ((probability - low) / (high - low) * 255).astype(np.uint8)
    published = py_sod_metrics.Smeasure()
    published.step(picture, (truth * 255).astype(np.uint8))
    assert saliency_scores(probability, truth, "paper")["s_measure"] == pytest.approx(published.get_results()["sm"])


def test_an_image_without_object_has_only_what_means_something_there() -> None:
    probability = np.zeros((10, 10))
    probability[0, :5] = 0.8
    scores = saliency_scores(probability, np.zeros((10, 10)))
    known = {name: value for name, value in scores.items() if value is not None}
    assert known == pytest.approx({"mae": 0.04, "false_alarm": 0.05})
    assert saliency_scores(*pair(1))["false_alarm"] is None


def test_a_map_of_one_value_can_be_stretched() -> None:
    truth = pair(1)[1]
    scores = saliency_scores(np.full_like(truth, 0.5), truth, "paper")
    assert scores["mae"] == pytest.approx(truth.mean())


def test_tensors_with_leading_axes_of_one_are_maps() -> None:
    probability, truth = pair(1)
    expected = saliency_scores(probability, truth)
    tensors = [torch.from_numpy(values)[None, None] for values in (probability, truth)]
    assert saliency_scores(*tensors) == expected


@pytest.mark.parametrize(
    ("probability", "truth", "stretch", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5)), "none", r"\(4, 4\) must equal the label's, \(4, 5\)"),
        (np.full((4, 4), 3.0), np.zeros((4, 4)), "none", "apply a sigmoid"),
        (np.full((4, 4), np.nan), np.zeros((4, 4)), "none", "nan"),
        (np.zeros((2, 4, 4)), np.zeros((4, 4)), "none", "one 2-D map"),
        (np.zeros((4, 4)), np.zeros((4, 4)), "minmax", "stretch must be one of none, paper"),
    ],
)
def test_what_is_no_probability_map_is_refused(
    probability: np.ndarray, truth: np.ndarray, stretch: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        saliency_scores(probability, truth, stretch)


def test_the_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "py_sod_metrics":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'pip install "monai-ext\[saliency\]"'):
        saliency_scores(*pair(1))
