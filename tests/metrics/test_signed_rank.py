# SPDX-License-Identifier: Apache-2.0
"""Wilcoxon's test, against SciPy and against the count of all choices of signs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from monai_ext.metrics import signed_rank_p


def naive(differences: np.ndarray) -> float:
    moved = differences[differences != 0]
    ranks = rankdata(np.abs(moved))
    seen = ranks[moved > 0].sum()
    sums = np.array([ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(moved))])
    return min(1.0, 2 * min((sums <= seen).mean(), (sums >= seen).mean()))


@pytest.mark.parametrize("count", [1, 2, 5, 12, 50])
def test_untied_differences_give_the_exact_p_of_scipy(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.2, 1, count)
    assert signed_rank_p(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_equal_differences_and_zeros_are_counted_out(seed: int) -> None:
    differences = np.random.default_rng(seed).integers(-2, 4, 11) / 8
    assert signed_rank_p(differences) == pytest.approx(naive(differences), rel=1e-12)


def test_many_pairs_are_left_to_scipy() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, 80)
    assert signed_rank_p(differences) == pytest.approx(wilcoxon(differences).pvalue)


def test_swapping_the_runs_changes_nothing() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, 9)
    assert signed_rank_p(differences) == signed_rank_p(-differences)


def test_float_error_is_no_difference() -> None:
    assert signed_rank_p([0.1 + 0.2 - 0.3, 0.0]) is None
    assert signed_rank_p([0.1 + 0.2 - 0.3, 0.5]) == 1.0
    assert signed_rank_p([]) is None
