# SPDX-License-Identifier: Apache-2.0
"""PrepareTaught: a teacher is asked once about what always looks the same, and the lesson stays the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_ext.engines import PrepareTaught


class Teacher:
    """Says four numbers of each image, and counts how many it was shown at a time."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def teach(self, image: Tensor) -> Tensor:
        self.shown.append(len(image))
        return image.flatten(1)[:, :4] * 10


def batch(*slices: int, case: str = "a") -> dict[str, Any]:
    images = torch.stack([torch.full((1, 2, 2), float(index)) for index in slices])
    return {"image": images, "case": [case] * len(slices), "slice": torch.tensor(slices)}


def features(prepare: PrepareTaught, given: dict[str, Any]) -> Tensor:
    return prepare(given)[3]["features"]


def test_each_slice_is_shown_once_and_alone_in_whatever_batches() -> None:
    prepare = PrepareTaught(teacher := Teacher())
    first = features(prepare, batch(0, 1, 2))
    assert first.tolist() == [[0.0] * 4, [10.0] * 4, [20.0] * 4]
    assert torch.equal(features(prepare, batch(2, 0)), first[[2, 0]])
    assert teacher.shown == [1, 1, 1]


def test_slices_of_two_cases_are_not_mistaken_for_each_other() -> None:
    prepare = PrepareTaught(teacher := Teacher())
    features(prepare, batch(5))
    changed = {**batch(5, case="b"), "image": torch.ones(1, 1, 2, 2)}
    assert features(prepare, changed).tolist() == [[10.0] * 4]
    assert len(teacher.shown) == 2


def test_what_changes_is_left_to_the_network() -> None:
    image, label, args, kwargs = PrepareTaught(teacher := Teacher(), keep=False)(batch(0, 1))
    assert (image.shape, label, args, kwargs) == ((2, 1, 2, 2), None, (), {})
    assert teacher.shown == []


def test_without_room_the_network_is_asked_and_what_is_known_stays_known() -> None:
    prepare = PrepareTaught(teacher := Teacher(), memory_mb=2 * 16 / 2**20)  # two slices of four floats
    assert features(prepare, batch(0, 1)).shape == (2, 4)
    for _ in range(3):
        assert prepare(batch(1, 2))[3] == {}
    assert torch.equal(features(prepare, batch(1)), torch.full((1, 4), 10.0))
    assert teacher.shown == [1, 1]


def test_the_slice_that_does_not_fit_is_shown_in_vain_only_once() -> None:
    prepare = PrepareTaught(teacher := Teacher(), memory_mb=20 / 2**20)
    for _ in range(3):
        assert prepare(batch(0, 1))[3] == {}
    assert teacher.shown == [1, 1]


def test_no_memory_keeps_nothing_and_less_is_refused() -> None:
    prepare = PrepareTaught(teacher := Teacher(), memory_mb=0)
    assert prepare(batch(0))[3] == {}
    assert teacher.shown == []
    with pytest.raises(ValueError, match="memory_mb must be at least 0"):
        PrepareTaught(teacher, memory_mb=-1)
