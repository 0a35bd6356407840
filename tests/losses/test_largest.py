# SPDX-License-Identifier: Apache-2.0
"""The largest entries of long rows are those that torch's own selection finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from monai_ext.losses._largest import SHORT, STEP, largest

LONG = 3 * SHORT + 5


def noise(rows: int, length: int) -> Tensor:
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(rows + length))


def smooth(rows: int, length: int) -> Tensor:
    """Neighbours resemble each other, as in an image."""
    return noise(rows, length).cumsum(dim=1)


def mostly_forbidden(rows: int, length: int) -> Tensor:
    values = noise(rows, length)
    values[0, 100:] = -torch.inf
    return values.masked_fill(noise(rows, length) < 2, -torch.inf)


def missed_by_the_sample(rows: int, length: int) -> Tensor:
    """What is looked at first is the largest of all, so that too few others reach it."""
    values = noise(rows, length)
    values[:, ::STEP] += 100
    return values


def a_ramp(rows: int, length: int) -> Tensor:
    return torch.arange(length).float().repeat(rows, 1)


@pytest.mark.parametrize("count", [1, 200, 2000])
@pytest.mark.parametrize("length", [2000, SHORT, LONG])
@pytest.mark.parametrize("made", [noise, smooth, mostly_forbidden, missed_by_the_sample, a_ramp])
def test_they_are_those_that_topk_finds(made: Callable[[int, int], Tensor], length: int, count: int) -> None:
    rows = made(7, length)
    values, places = largest(rows, count)
    assert torch.equal(values.sort(dim=1).values, rows.topk(count, dim=1).values.sort(dim=1).values)
    assert torch.equal(rows.gather(1, places), values)
    assert all(len(row.unique()) == count for row in places)


def test_equal_entries_are_taken_once_each() -> None:
    rows = torch.zeros(2, LONG)
    rows[:, :10] = 1
    values, places = largest(rows, 50)
    assert values.sum(dim=1).tolist() == [10, 10]
    assert all(len(row.unique()) == 50 for row in places)
