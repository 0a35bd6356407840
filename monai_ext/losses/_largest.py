# SPDX-License-Identifier: Apache-2.0
"""The largest entries of long rows, of which most are sorted out by one comparison."""

from __future__ import annotations

from math import ceil, sqrt

import torch
from torch import Tensor

STEP = 16  # every so many entries are looked at first
SHORT = 4096  # below this, and where much is wanted, there is nothing to gain


def largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest entries of each row and their places, in any order, as ``topk`` does.

    On a CPU ``topk`` carries every entry's place through its selection. Here a sample of each row tells a value that
    more than ``count`` entries very likely reach; only those go into the selection. Where fewer do, the whole row does.

    Args:
        rows: (N, M).
        count: at most M.

    Example:
        >>> largest(torch.tensor([[3.0, 9.0, 5.0]]), 2)[1].sort().values
        tensor([[1, 2]])
    """
    length = rows.shape[1]
    if rows.device.type != "cpu" or length < SHORT or 4 * count > length:
        values, places = rows.topk(count, dim=1, sorted=False)
        return values, places
    reached = rows >= _likely_reached(rows, count)
    values, places = rows.new_empty(len(rows), count), torch.empty(len(rows), count, dtype=torch.long)
    for number, (row, those) in enumerate(zip(rows, reached, strict=True)):
        candidates = those.nonzero()[:, 0]
        if len(candidates) < count:
            values[number], places[number] = row.topk(count, sorted=False)
            continue
        values[number], chosen = row[candidates].topk(count, sorted=False)
        places[number] = candidates[chosen]
    return values, places


def _likely_reached(rows: Tensor, count: int) -> Tensor:
    """Return for each row (N, 1) a value that more than ``count`` entries reach, judged by a sample."""
    sample = rows[:, ::STEP]
    expected = count / STEP
    rank = min(ceil(expected + 4 * sqrt(expected)) + 1, sample.shape[1])
    return sample.kthvalue(sample.shape[1] - rank + 1, dim=1, keepdim=True).values
