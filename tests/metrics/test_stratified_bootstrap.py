# SPDX-License-Identifier: Apache-2.0
"""Intervals of a mean over groups whose sizes are given."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_ext.metrics import bootstrap_interval, stratified_interval


def test_one_group_is_the_plain_bootstrap() -> None:
    values = np.random.default_rng(0).random(11)
    assert stratified_interval([values], seed=3) == bootstrap_interval(values, seed=3)


def test_the_interval_is_that_of_the_normal_distribution() -> None:
    random = np.random.default_rng(1)
    groups = [random.normal(0.9, 0.02, 100), random.normal(0.5, 0.2, 400)]
    low, high = stratified_interval(groups, samples=4000)
    mean = np.mean([group.mean() for group in groups])
    half = 1.96 * math.sqrt(sum(group.var() / len(group) for group in groups)) / 2
    assert low == pytest.approx(mean - half, abs=half / 10)
    assert high == pytest.approx(mean + half, abs=half / 10)


def test_what_lies_between_the_groups_does_not_widen_it() -> None:
    near, far = [[0.0, 0.1, 0.2], [0.1, 0.2, 0.3]], [[0.0, 0.1, 0.2], [100.1, 100.2, 100.3]]
    widths = [high - low for low, high in map(stratified_interval, (near, far))]
    assert widths[0] == pytest.approx(widths[1])


def test_weights_give_the_interval_of_a_difference() -> None:
    groups = [[0.8, 0.8, 0.8], [0.5, 0.5]]
    assert stratified_interval(groups, [1, -1]) == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize("groups", [[], [[0.5, 0.6], [0.7]]])
def test_a_group_of_one_case_has_no_known_spread(groups: list[list[float]]) -> None:
    assert stratified_interval(groups) == (None, None)


@pytest.mark.parametrize("arguments", [{"samples": 0}, {"level": 1.0}, {"weights": [1.0]}])
def test_senseless_settings_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        stratified_interval([[0.1, 0.2], [0.3, 0.4]], **arguments)
