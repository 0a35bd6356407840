# SPDX-License-Identifier: Apache-2.0
"""Assignment of places to candidates is the best of all that there are."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from monai_ext.followup.assignment import assign


def cost(chosen: list[int | None], places: Tensor, candidates: Tensor, limits: Tensor) -> float:
    """Sum of distances, where a place that is left alone costs what its candidate's limit would be saved."""
    saved = [float((places[i] - candidates[j]).norm() - limits[i, j]) for i, j in enumerate(chosen) if j is not None]
    return sum(saved)


def best_of_all(places: Tensor, candidates: Tensor, limits: Tensor) -> float:
    """Try every way to give each place a candidate or none."""
    options: list[int | None] = [*range(len(candidates)), *[None] * len(places)]
    ways = set(permutations(options, len(places)))
    near = [
        way
        for way in ways
        if all(j is None or float((places[i] - candidates[j]).norm()) < limits[i, j] for i, j in enumerate(way))
    ]
    return min(cost(list(way), places, candidates, limits) for way in near)


@pytest.mark.parametrize("seed", range(25))
def test_no_other_assignment_is_better(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count, others = 1 + seed % 4, (seed * 7) % 4
    places, candidates = (20 * torch.rand(n, 3, generator=generator).double() for n in (count, others))
    limits = 4 + 10 * torch.rand(count, others, generator=generator).double()
    chosen = assign(places, candidates, limits)
    taken = [j for j in chosen if j is not None]
    assert len(taken) == len(set(taken))
    assert all(float((places[i] - candidates[j]).norm()) < limits[i, j] for i, j in enumerate(chosen) if j is not None)
    assert cost(chosen, places, candidates, limits) == pytest.approx(best_of_all(places, candidates, limits))


def test_a_close_pair_is_not_torn_up_for_two_distant_ones() -> None:
    places, candidates = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [-9.0]])
    assert assign(places, candidates, torch.full((2, 2), 10.0)) == [0, None]


def test_each_candidate_is_given_once_even_if_all_want_it() -> None:
    places = torch.tensor([[0.0], [1.0], [2.0]])
    assert assign(places, torch.tensor([[1.2]]), torch.full((3, 1), 10.0)) == [None, 0, None]


def test_a_limit_is_of_its_own_pair() -> None:
    places, candidates = torch.tensor([[0.0]]), torch.tensor([[5.0], [-6.0]])
    assert assign(places, candidates, torch.tensor([[4.0, 10.0]])) == [1]


@pytest.mark.parametrize(("count", "others"), [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_assign_is_no_error(count: int, others: int) -> None:
    assert assign(torch.zeros(count, 3), torch.zeros(others, 3), torch.ones(count, others)) == [None] * count
