# SPDX-License-Identifier: Apache-2.0
"""WarmupConstant: the published rates, step by step, also after a stop."""

from __future__ import annotations

import pytest
import torch

from monai_ext.engines import WarmupConstant


def rates(schedule: WarmupConstant, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    return found


def build(**settings: float) -> WarmupConstant:
    return WarmupConstant(torch.optim.SGD([torch.zeros(1)], lr=0.02), **settings)  # type: ignore[arg-type]


def test_it_rises_in_equal_steps_and_then_stays() -> None:
    expected = [0.02 * (0.001 + 0.999 * step / 5) for step in range(5)] + [0.02] * 4
    assert rates(build(warmup_steps=5), 9) == pytest.approx(expected)


def test_it_equals_torchs_own_linear_warm_up() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.02)
    other, found = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.001, total_iters=7), []
    for _ in range(10):
        found += other.get_last_lr()
        optimizer.step()
        other.step()
    assert rates(build(warmup_steps=7), 10) == pytest.approx(found)


def test_without_warm_up_the_rate_is_the_base_rate() -> None:
    assert rates(build(warmup_steps=0), 3) == [0.02] * 3


def test_a_stopped_schedule_goes_on_where_it_was() -> None:
    whole, first, second = build(warmup_steps=6), build(warmup_steps=6), build(warmup_steps=6)
    rates(first, 4)
    second.load_state_dict(first.state_dict())
    assert rates(second, 5) == rates(whole, 9)[4:]


@pytest.mark.parametrize("settings", [{"warmup_steps": -1}, {"start_factor": 0.0}])
def test_numbers_out_of_range_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        build(**settings)
