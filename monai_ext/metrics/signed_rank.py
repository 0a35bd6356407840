# SPDX-License-Identifier: Apache-2.0
"""Whether paired differences lie about zero: Wilcoxon's signed-rank test, exact for few pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata, wilcoxon

_EXACT_UP_TO = 50
_DECIMALS = 9  # float error must not decide whether two differences are equal or one is zero


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p value of the signed-rank test (Wilcoxon 1945).

    Differences of zero are left out, as Wilcoxon did. Up to 50 others the null distribution is counted out, with
    equal differences too, for which SciPy has only the normal distribution unless they are very few; beyond that it
    is SciPy's normal distribution.

    Args:
        differences: one finite number per pair.

    Returns:
        The p value, None when no difference is left.

    Example:
        >>> signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5])
        0.0625
    """
    rounded = np.round(np.asarray(differences, dtype=np.float64), _DECIMALS)
    moved = rounded[rounded != 0]
    if not moved.size:
        return None
    if moved.size > _EXACT_UP_TO:
        return float(wilcoxon(moved).pvalue)
    doubled = np.round(2 * rankdata(np.abs(moved))).astype(int)  # ranks of equal differences may be halves
    ways = np.ones(1)  # ways[s]: in how many of the 2 ** n choices of signs the positive ranks sum to s
    for rank in doubled:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    positive = int(doubled[moved > 0].sum())
    fewer = min(ways[: positive + 1].sum(), ways[positive:].sum())
    return float(min(1.0, 2 * fewer / ways.sum()))
