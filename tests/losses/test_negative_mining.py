# SPDX-License-Identifier: Apache-2.0
"""Which negatives are drawn for an anchor, how often, and how many."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.losses import MINING_PRESETS, NegativeMining, hard_negatives


def test_drawn_negatives_are_among_the_most_similar_and_never_twice() -> None:
    similarity = torch.randn(7, 50)
    similarity[:, :20] = -torch.inf
    similarity[0, 2:] = -torch.inf
    similarity[0, :2] = 0.5
    cells, counts = hard_negatives(similarity, candidates=12, negatives=5)
    best = similarity.argsort(dim=1, descending=True)[:, :12]
    assert counts.sum(dim=1).tolist() == [2, 5, 5, 5, 5, 5, 5]
    for row in range(7):
        chosen = cells[row][counts[row]].tolist()
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= set(best[row].tolist())


def test_every_candidate_is_drawn_equally_often() -> None:
    similarity = torch.arange(10.0).expand(4000, 10)
    cells, _ = hard_negatives(similarity, candidates=6, negatives=2)
    counted = torch.bincount(cells.flatten(), minlength=10)
    assert counted[:4].sum() == 0
    assert ((counted[4:] - 8000 / 6).abs() < 6 * math.sqrt(8000 / 6)).all()


def test_the_presets_differ_in_what_the_sources_say() -> None:
    official, notes = MINING_PRESETS["official"], MINING_PRESETS["notes"]
    assert (official.local_candidates, official.local_negatives, official.local_ignore_mm) == (2000, 500, 20)
    assert (official.global_candidates, official.global_negatives, official.global_random) == (250, 200, 1000)
    assert (notes.global_candidates, notes.global_negatives, notes.unit_length) == (None, 500, False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"local_negatives": 0}, "local_negatives must be at least 1"),
        ({"global_random": -1}, "global_random must be at least 0"),
        ({"local_candidates": 4, "local_negatives": 5}, "got 4 and 5"),
        ({"global_candidates": 4, "global_negatives": 5}, "got 4 and 5"),
    ],
)
def test_bad_numbers_of_negatives_are_named(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        NegativeMining(**arguments)  # type: ignore[arg-type]
