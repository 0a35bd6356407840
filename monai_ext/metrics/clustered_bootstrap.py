# SPDX-License-Identifier: Apache-2.0
"""How sure a mean over points is when several points belong to one case: whole cases are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_ext.metrics.bootstrap import drawn_means


def clustered_interval(
    groups: Sequence[Sequence[float]], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float | None, float | None]:
    """Return the percentile bootstrap interval of the mean over all values, drawing groups with all their values.

    Points of one scan tend to err together, so drawing single points would make the interval too narrow (Davison and
    Hinkley 1997, section 3.8). With one value per group it is `bootstrap_interval`.

    Args:
        groups: the values of each case; empty ones do not count.
        samples: how many times the cases are drawn.
        seed: of the draw.
        level: share of the drawn means that lie inside the interval.

    Returns:
        The two ends, or (None, None) when fewer than two groups have a value.

    Raises:
        ValueError: when ``samples`` is below 1 or ``level`` outside (0, 1).

    Example:
        >>> clustered_interval([[0.5, 0.5], [0.5], [0.5, 0.5, 0.5]])
        (0.5, 0.5)
        >>> clustered_interval([[0.5, 0.7]])
        (None, None)
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, for example 0.95, got {level}.")
    full = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    if len(full) < 2:
        return None, None
    # the same seed and number of groups: sums and counts are of the same draws
    sums = drawn_means(np.array([group.sum() for group in full]), samples, np.random.default_rng(seed))
    counts = drawn_means(np.array([float(group.size) for group in full]), samples, np.random.default_rng(seed))
    low, high = np.quantile(sums / counts, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
