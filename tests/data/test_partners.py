# SPDX-License-Identifier: Apache-2.0
"""Partners are those that a list of all pairs has, and finding them takes no such list."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest

from monai_ext.data._partners import Partners


def listed(data: list[dict[str, Any]], subjects: str) -> list[list[int]]:
    """All pairs, written down."""
    scans = [index for index, item in enumerate(data) if "reference" not in item]

    def fits(one: int, other: int) -> bool:
        same = data[one]["subject"] == data[other]["subject"]
        return one != other and {"any": True, "same": same, "different": not same}[subjects]

    return [[i] if "reference" in item else [j for j in scans if fits(i, j)] for i, item in enumerate(data)]


@pytest.mark.parametrize("subjects", ["different", "same", "any"])
@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_the_list_of_all_pairs(subjects: str, seed: int) -> None:
    draw = random.Random(seed)
    data: list[dict[str, Any]] = [{"subject": draw.choice("abcd")} for _ in range(draw.randrange(1, 12))]
    data = [{**item, "reference": "x"} if draw.random() < 0.3 else item for item in data]
    partners = Partners(data, subjects)
    assert [list(partners.of(index)) for index in range(len(data))] == listed(data, subjects)


def test_places_are_counted_from_either_end_and_cut() -> None:
    partners = Partners([{"subject": name} for name in "abac"], "different").of(0)
    assert (partners[0], partners[-1], len(partners), list(partners[1:])) == (1, 3, 2, [3])
    with pytest.raises(IndexError):
        partners[2]


def test_a_hundred_thousand_scans_take_no_list_of_ten_thousand_million_pairs() -> None:
    data = [{"subject": number // 3} for number in range(100_000)]
    tracemalloc.start()
    partners = Partners(data, "different")
    counts = {len(partners.of(index)) for index in range(0, 100_000, 7)}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts == {99_997}
    assert peak < 100e6
