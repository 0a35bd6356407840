# SPDX-License-Identifier: Apache-2.0
"""How sure a mean over cases is: percentile bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_NUMBERS_AT_ONCE = 1 << 22  # keeps the resampling table at 32 MB, however many cases there are


def bootstrap_interval(
    values: Sequence[float], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float | None, float | None]:
    """Return the percentile bootstrap interval of the mean of ``values`` (Efron 1979).

    Cases are drawn with replacement, so give one value per case, not one per class or slice of a case.

    Args:
        values: one finite number per case.
        samples: how many times the cases are drawn.
        seed: of the draw; the same values in the same order with the same seed give the same interval.
        level: share of the drawn means that lie inside the interval.

    Returns:
        The two ends, or (None, None) when there are fewer than two cases, from which nothing can be said.

    Raises:
        ValueError: when ``samples`` is below 1 or ``level`` outside (0, 1).

    Example:
        >>> bootstrap_interval([0.5, 0.5, 0.5])
        (0.5, 0.5)
        >>> bootstrap_interval([0.5])
        (None, None)
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, for example 0.95, got {level}.")
    cases = np.asarray(values, dtype=np.float64)
    if cases.size < 2:
        return None, None
    means = drawn_means(cases, samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def drawn_means(cases: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the means (samples,) of cases (N,) drawn with replacement."""
    rows = max(1, _NUMBERS_AT_ONCE // cases.size)
    return np.concatenate(
        [
            cases[generator.integers(cases.size, size=(min(rows, samples - start), cases.size))].mean(axis=1)
            for start in range(0, samples, rows)
        ]
    )


def summary_statistics(
    values: Sequence[float], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, float | None]:
    """Return mean, median, sample standard deviation, bootstrap interval and number of ``values``.

    What cannot be computed from so few values (all of it for none, spread and interval for one) is None.

    Example:
        >>> summary_statistics([0.25, 0.75])["mean"]
        0.5
    """
    cases = np.asarray(values, dtype=np.float64)
    low, high = bootstrap_interval(values, samples, seed, level)
    return {
        "mean": float(cases.mean()) if cases.size else None,
        "median": float(np.median(cases)) if cases.size else None,
        "std": float(cases.std(ddof=1)) if cases.size > 1 else None,
        "low": low,
        "high": high,
        "n": int(cases.size),
    }
