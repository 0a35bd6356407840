# SPDX-License-Identifier: Apache-2.0
"""Points are drawn on objects and beside them as often as asked, and image sizes are remembered."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.transforms import RandPointPromptd, RecordSized


def label() -> Tensor:
    """One small object, one large, most is background."""
    label = torch.zeros(1, 20, 30)
    label[0, 2:4, 5:7] = 1
    label[0, 10:18, 12:28] = 2
    return label


def draws(image: Tensor, negatives: float, count: int = 3000) -> list[tuple[int, int]]:
    transform = RandPointPromptd(keys=["label"], negatives=negatives)
    transform.set_random_state(seed=0)
    return [tuple(transform({"label": image})["point"].int().tolist()) for _ in range(count)]


@pytest.mark.parametrize("negatives", [0.0, 1.0, 3.0])
def test_background_and_each_object_come_as_often_as_asked(negatives: float) -> None:
    values = Counter(int(label()[0, y, x]) for x, y in draws(label(), negatives))
    beside = negatives / (negatives + 1)
    assert values[0] / 3000 == pytest.approx(beside, abs=0.03)
    assert values[1] / 3000 == pytest.approx((1 - beside) / 2, abs=0.03)
    assert values[2] / 3000 == pytest.approx((1 - beside) / 2, abs=0.03)


def test_every_pixel_of_an_object_is_drawn_equally_often() -> None:
    image = torch.zeros(1, 4, 5)
    image[0, 1:3, 2:5] = 1
    counts = Counter(draws(image, 0.0))
    assert set(counts) == {(x, y) for x in (2, 3, 4) for y in (1, 2)}
    assert max(counts.values()) < 1.25 * min(counts.values())


@pytest.mark.parametrize(("value", "negatives"), [(0.0, 0.0), (1.0, 1e9)])
def test_without_a_pixel_of_the_kind_it_is_the_other(value: float, negatives: float) -> None:
    points = draws(torch.full((1, 3, 4), value), negatives, count=50)
    assert len(set(points)) > 5
    assert all(0 <= x < 4 and 0 <= y < 3 for x, y in points)


def test_the_same_seed_draws_the_same_point() -> None:
    points = []
    for _ in range(2):
        transform = RandPointPromptd(keys=["label"]).set_random_state(seed=7)
        points.append([transform({"label": MetaTensor(label())})["point"] for _ in range(5)])
    assert all(torch.equal(a, b) for a, b in zip(*points, strict=True))
    assert len({tuple(point.tolist()) for point in points[0]}) > 1
    assert points[0][0].dtype == torch.float32


def test_fewer_points_than_none_are_refused() -> None:
    with pytest.raises(ValueError, match="negatives"):
        RandPointPromptd(keys=["label"], negatives=-1)


def test_the_size_is_that_of_the_moment_and_absent_without_an_image() -> None:
    record = RecordSized(keys=["image"], allow_missing_keys=True)
    assert record({"image": torch.zeros(3, 7, 5)})["inner"].tolist() == [7, 5]
    assert record({"label": np.zeros(1)}).keys() == {"label"}
