# SPDX-License-Identifier: Apache-2.0
"""The mean error of matching, as the key metric of an evaluator."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric

from monai_ext.handlers._landmark_case import LandmarkCase, landmark_cases
from monai_ext.handlers._results import gather


class MatchError(Metric):
    """Mean distance in mm between found and true places, over all points of all cases, accepted or not.

    For ``key_val_metric`` of MONAI's evaluators. Smaller is better: give the evaluator
    `monai_ext.engines.smaller_is_better` as its ``metric_cmp_fn``. With several processes it is the mean over all
    of them, and a case that two processes saw counts once. The engine's output is that of `LandmarkScores`.

    Raises:
        InputError: by the run, as `LandmarkScores` does.
        NotComputableError: by the run, when there was no point.

    Example:
        >>> import torch
        >>> from monai_ext.matching import MatchedPoints
        >>> one, no = torch.ones(1), torch.zeros(1, dtype=torch.bool)
        >>> found = MatchedPoints(torch.tensor([[0.0, 3.0, 4.0]]), one, one, one, one, ~no, no, one, ("",))
        >>> item = {"pred": found, "points": torch.zeros(1, 3), "truth": torch.zeros(1, 3)}
        >>> evaluator = Engine(lambda engine, batch: [item])
        >>> MatchError().attach(evaluator, "match_error_mm")
        >>> evaluator.run([0]).metrics["match_error_mm"]
        5.0
    """

    def reset(self) -> None:
        """Forget all cases."""
        self._sums: dict[tuple[str, ...], tuple[float, int]] = {}

    def iteration_completed(self, engine: Engine) -> None:
        """Take in the cases of the engine's last iteration."""
        self.update(landmark_cases(engine))

    def update(self, output: Sequence[LandmarkCase]) -> None:
        """Take in cases."""
        for case in output:
            errors = [row["error_mm"] for row in case.rows]
            self._sums[case.identity(len(self._sums))] = (sum(errors), len(errors))

    def compute(self) -> float:
        """Return the mean over the cases of all processes; every process has to call this."""
        sums = dict(sorted(gather(list(self._sums.items())))).values()
        count = sum(number for _, number in sums)
        if not count:
            raise NotComputableError("MatchError needs at least one point.")
        return sum(total for total, _ in sums) / count
