# SPDX-License-Identifier: Apache-2.0
"""WarmupCosine: the formula, accumulation, resuming, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from monai_ext.engines import WarmupCosine


def optimizer_of(rate: float = 0.3) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def rates_of(schedule: WarmupCosine, steps: int) -> list[float]:
    """The rates of the next steps, the present one first."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return rates


def test_every_rate_follows_the_formula() -> None:
    schedule = WarmupCosine(optimizer_of(), 0.1, max_epochs=10, steps_per_epoch=8)
    rising = [0.3 * (i + 1) / 8 for i in range(8)]
    falling = [0.15 * (1 + math.cos(math.pi * i / 72)) for i in range(72)]
    assert rates_of(schedule, 80) == pytest.approx(rising + falling, rel=1e-12)
    assert schedule.get_last_lr() == [0.0]


def test_accumulated_batches_count_as_one_step() -> None:
    often = WarmupCosine(optimizer_of(), 0.25, max_epochs=4, steps_per_epoch=6, accumulation_steps=4)
    seldom = WarmupCosine(optimizer_of(), 0.25, max_epochs=4, steps_per_epoch=2)
    # six batches an epoch are a group of four and one of two
    expected = [rate for step, rate in enumerate(rates_of(seldom, 8)) for _ in range(2 if step % 2 else 4)]
    assert rates_of(often, 24) == expected


def test_a_resumed_run_goes_on_along_its_own_curve() -> None:
    first = WarmupCosine(optimizer_of(), max_epochs=2, steps_per_epoch=10)
    rates_of(first, 20)
    longer = WarmupCosine(optimizer_of(), max_epochs=4, steps_per_epoch=10)
    expected = rates_of(WarmupCosine(optimizer_of(), max_epochs=4, steps_per_epoch=10), 40)[20:]
    longer.optimizer.load_state_dict(first.optimizer.state_dict())
    longer.load_state_dict(first.state_dict())
    assert rates_of(longer, 21)[1:] == pytest.approx([*expected[1:], 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"warmup_share": 1.0}, r"warmup_share must be in \[0, 1\), got 1.0"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        WarmupCosine(optimizer_of(), **{"max_epochs": 2, "steps_per_epoch": 2, **knobs})
