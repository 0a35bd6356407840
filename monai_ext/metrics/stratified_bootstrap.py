# SPDX-License-Identifier: Apache-2.0
"""How sure a mean over groups is: cases are drawn within each group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_ext.metrics.bootstrap import drawn_means


def stratified_interval(
    groups: Sequence[Sequence[float]],
    weights: Sequence[float] | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float | None, float | None]:
    """Return the percentile bootstrap interval of a weighted sum of the means of groups.

    Each group keeps its size: the groups (sites) are given, and only their cases could have been others. With one
    group it is `bootstrap_interval`.

    Args:
        groups: the values of each group's cases.
        weights: of the means; None takes their mean. A difference of two groups has the weights 1 and -1.
        samples: how many times the cases are drawn.
        seed: of the draw.
        level: share of the drawn sums that lie inside the interval.

    Returns:
        The two ends, or (None, None) when there is no group or one of fewer than two cases, whose spread is unknown.

    Raises:
        ValueError: when ``samples`` is below 1, ``level`` outside (0, 1), or the weights are not one per group.

    Example:
        >>> stratified_interval([[0.5, 0.5], [1.0, 1.0, 1.0]])
        (0.75, 0.75)
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, for example 0.95, got {level}.")
    shares = [1 / len(groups) for _ in groups] if weights is None else list(weights)
    if len(shares) != len(groups):
        raise ValueError(f"weights must be one per group, got {len(shares)} for {len(groups)} groups.")
    if not groups or min(len(group) for group in groups) < 2:
        return None, None
    generator = np.random.default_rng(seed)
    sums = np.zeros(samples)
    for group, share in zip(groups, shares, strict=True):
        sums += share * drawn_means(np.asarray(group, dtype=np.float64), samples, generator)
    low, high = np.quantile(sums, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
