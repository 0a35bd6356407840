# SPDX-License-Identifier: Apache-2.0
"""SAMed's way to count: what empty masks score, and its distance against one written naively."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from monai_ext.metrics import samed_scores, segmentation_scores


def naive_hd95(one: np.ndarray, other: np.ndarray) -> float:
    """The 95th percentile of the distances from each surface voxel to the nearest of the other surface, both ways."""

    def surface(mask: np.ndarray) -> list[tuple[int, ...]]:
        padded = np.pad(mask, 1)
        steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
        return [
            place
            for place in zip(*np.nonzero(mask), strict=True)
            if not all(padded[tuple(np.add(place, step) + 1)] for step in steps)
        ]

    surfaces = [np.array(surface(mask)) for mask in (one, other)]
    apart = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=2)
    return float(np.percentile(np.concatenate([apart.min(axis=1), apart.min(axis=0)]), 95))


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    pair = generator.random((2, 1, 7, 8, 6)) > 0.7
    pair[:, :, 2:5, 2:6, 1:4] |= generator.random((2, 1, 3, 4, 3)) > 0.2
    return pair[0].astype(np.uint8), pair[1].astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_is_the_one_written_naively(seed: int) -> None:
    predicted, true = maps(seed)
    (row,) = samed_scores(predicted, true, num_classes=1)
    assert row["hd95_voxels"] == pytest.approx(naive_hd95(predicted[0] > 0, true[0] > 0))


def test_dice_is_the_usual_one_where_both_have_something() -> None:
    predicted, true = maps(5)
    usual = segmentation_scores(predicted, true, 1, (1, 1, 1))[0]["dice"]
    assert samed_scores(torch.from_numpy(predicted), torch.from_numpy(true), 2)[0]["dice"] == pytest.approx(usual)


@pytest.mark.parametrize(
    ("predicted", "true", "dice"), [(1, 0, 1.0), (0, 1, 0.0), (0, 0, 0.0)], ids=["false", "missed", "neither"]
)
def test_what_is_empty_counts_as_in_the_published_tables(predicted: int, true: int, dice: float) -> None:
    full = np.ones((1, 3, 3, 3), np.uint8)
    assert samed_scores(full * predicted, full * true, 1) == [{"class": 1, "dice": dice, "hd95_voxels": 0.0}]


def test_each_class_is_scored_by_itself() -> None:
    true = np.zeros((1, 4, 4, 4), np.uint8)
    true[0, 0], true[0, 1] = 1, 2
    rows = samed_scores(true, true, num_classes=4)
    assert [(row["class"], row["dice"]) for row in rows] == [(1, 1.0), (2, 1.0), (3, 0.0)]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        samed_scores(np.zeros((1, 3, 3)), np.zeros((1, 3, 4)), 1)
