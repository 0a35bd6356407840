# SPDX-License-Identifier: Apache-2.0
"""How sure a mean over a few repeated runs is: Student's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float | None, float | None]:
    """Return Student's interval of the mean of ``values``, such as the scores of one training with several seeds.

    For a handful of runs: drawing three values with replacement, as `bootstrap_interval` does with cases, gives an
    interval that is far too narrow. It takes the values for normal, which three of them cannot show.

    Args:
        values: one finite number per run.
        level: of confidence.

    Returns:
        The two ends, or (None, None) when there are fewer than two values.

    Raises:
        ValueError: ``level`` is outside (0, 1).

    Example:
        >>> low, high = t_interval([0.7, 0.8, 0.9])
        >>> round(low, 3), round(high, 3)
        (0.552, 1.048)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, for example 0.95, got {level}.")
    runs = np.asarray(values, dtype=np.float64)
    if runs.size < 2:
        return None, None
    half = float(stats.t.ppf((1 + level) / 2, runs.size - 1)) * float(runs.std(ddof=1)) / math.sqrt(runs.size)
    return float(runs.mean()) - half, float(runs.mean()) + half
