# SPDX-License-Identifier: Apache-2.0
"""How far a registration is off, as the key metric of an evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from torch import Tensor

from monai_ext.distributed import unwrap
from monai_ext.handlers._registration_case import RegistrationCase, registration_cases
from monai_ext.handlers._results import gather

TARGET = ("moving_mask", "moving_label", "fixed_label")
Entry = tuple[float | None, float | None]


class RegistrationError(Metric):
    """Mean target registration error in mm over all pairs with points; where no pair has any, the mean loss.

    For ``key_val_metric`` of MONAI's evaluators. Smaller is better: give the evaluator
    `monai_ext.engines.smaller_is_better` as its ``metric_cmp_fn``. The loss of a pair without points asks the network
    once more, for what it gives in training; no weight and no running statistic is changed. With several processes it
    is the mean over all of them, and a pair that two processes saw counts once. The engine's output is that of
    `DisplacementScores`.

    Args:
        network: that registers.
        loss: of what the network gives in training.

    Raises:
        NotComputableError: by the run, when there was no pair, or none with points where loss or network is missing.

    Example:
        >>> item = {"image": torch.rand(2, 4, 4, 4), "pred": torch.zeros(3, 4, 4, 4), "case": "a"}
        >>> item |= {"points": torch.ones(1, 3), "truth": torch.tensor([[1.0, 1.0, 3.0]])}
        >>> evaluator = Engine(lambda engine, batch: [item])
        >>> RegistrationError().attach(evaluator, "registration_error")
        >>> evaluator.run([0]).metrics["registration_error"]
        2.0
    """

    def __init__(self, network: nn.Module | None = None, loss: nn.Module | None = None) -> None:
        self.network = network
        self.loss = loss
        super().__init__()

    def reset(self) -> None:
        """Forget all pairs."""
        self._entries: dict[tuple[str, ...], Entry] = {}

    def iteration_completed(self, engine: Engine) -> None:
        """Take in the pairs of the engine's last iteration."""
        self.update(registration_cases(engine))

    def update(self, output: Iterable[RegistrationCase]) -> None:
        """Take in pairs."""
        for case in output:
            error = case.errors().get("after")
            entry = (None, self._loss_of(case)) if error is None else (float(error.mean()), None)
            self._entries[case.identity(len(self._entries))] = entry

    def compute(self) -> float:
        """Return the mean over the pairs of all processes; every process has to call this."""
        entries = dict(sorted(gather(list(self._entries.items())))).values()
        errors = [error for error, _ in entries if error is not None]
        values = errors or [loss for _, loss in entries if loss is not None]
        if not values:
            raise NotComputableError("RegistrationError needs at least one pair with points, or network and loss.")
        return sum(values) / len(values)

    def _loss_of(self, case: RegistrationCase) -> float | None:
        if self.network is None or self.loss is None:
            return None
        network = unwrap(self.network)
        device = next(network.parameters()).device
        image = torch.cat([case.scans["moving"], case.scans["fixed"]])[None].to(device)
        target = {key: _batched(case.given, key) for key in TARGET if key in case.given}
        training = network.training
        try:
            with torch.no_grad():
                return float(self.loss(network.train()(image), target))
        finally:
            network.train(training)


def _batched(given: Mapping[str, Any], key: str) -> Tensor:
    return torch.as_tensor(given[key])[None]
