# SPDX-License-Identifier: Apache-2.0
"""Says which of two epochs is better when the key metric is an error."""

from __future__ import annotations

import math


def smaller_is_better(current_metric: float, prev_best: float) -> bool:
    """Return whether an epoch's metric is better than the best so far: the ``metric_cmp_fn`` for errors and losses.

    MONAI's evaluators take the larger value where nothing else is said. Any number is better than NaN.

    Example:
        >>> smaller_is_better(2.5, 3.0), smaller_is_better(3.0, 3.0)
        (True, False)
    """
    return current_metric < prev_best or (math.isnan(prev_best) and not math.isnan(current_metric))
