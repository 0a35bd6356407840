# SPDX-License-Identifier: Apache-2.0
"""Which of the places that were found goes with which of the candidates."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(places: Tensor, candidates: Tensor, limits: Tensor) -> list[int | None]:
    """Give each place at most one candidate, and each candidate to at most one place.

    Of all ways the one with the smallest sum of distances is taken, where a pair that is left apart costs its limit:
    so no pair is further apart than that, and a close pair is not torn up in order to make two distant ones.

    Args:
        places: (N, axes) in mm.
        candidates: (M, axes) in mm.
        limits: (N, M) distances in mm from which on a pair does not belong together.

    Returns:
        For each place the index of its candidate, or None.

    Example:
        >>> places, candidates = torch.tensor([[0.0], [9.0]]), torch.tensor([[8.0], [40.0]])
        >>> assign(places, candidates, torch.full((2, 2), 10.0))
        [None, 0]
    """
    gain = (torch.cdist(places.double(), candidates.double()) - limits.double()).clamp(max=0)
    rows, columns = linear_sum_assignment(np.asarray(gain))
    chosen: list[int | None] = [None] * len(places)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if gain[row, column] < 0:
            chosen[row] = column
    return chosen
