# SPDX-License-Identifier: Apache-2.0
"""Student's interval of a mean over a few runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monai_ext.metrics import t_interval


@pytest.mark.parametrize("values", [[0.7, 0.8], [0.71, 0.74, 0.69], list(np.linspace(0, 1, 11))])
def test_it_is_scipys_interval(values: list[float]) -> None:
    expected = stats.t.interval(0.9, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values, 0.9) == pytest.approx(expected)


def test_it_holds_the_mean_as_often_as_it_says() -> None:
    runs = np.random.default_rng(0).normal(0.5, 0.1, (2000, 3))
    held = [low <= 0.5 <= high for low, high in map(t_interval, runs)]  # type: ignore[operator]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_one_run_says_nothing() -> None:
    assert t_interval([0.5]) == (None, None)


def test_a_level_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="level"):
        t_interval([0.1, 0.2], level=95)
