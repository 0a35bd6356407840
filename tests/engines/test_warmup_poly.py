# SPDX-License-Identifier: Apache-2.0
"""WarmupPoly: the published numbers, resuming, several groups, accumulation, and short runs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.handlers import LrScheduleHandler
from torch import nn

from monai_ext.engines import GuardedTrainer, WarmupPoly
from monai_ext.handlers import RunCheckpoint


def optimizer_of(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates], lr=1.0)


def rates_of(schedule: WarmupPoly, steps: int) -> list[float]:
    """The rates of the next steps, the present one first."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return rates


def test_the_rates_are_those_of_the_published_run() -> None:
    # base 0.005, 2211 slices in batches of 24: 93 iterations an epoch; schedule for 200 epochs, stopped after 160
    rates = rates_of(WarmupPoly(optimizer_of(0.005), 250, max_epochs=200, steps_per_epoch=93), 160 * 93)
    published = {0: 2e-5, 249: 5e-3, 250: 5e-3, 5000: 3.834538e-3, 160 * 93 - 1: 1.24571e-3}
    assert {step: rates[step] for step in published} == pytest.approx(published, rel=4e-6)


def test_every_rate_follows_the_formula() -> None:
    warmup, total, power, base = 7, 80, 7.0, 0.3
    rates = rates_of(WarmupPoly(optimizer_of(base), warmup, max_epochs=10, steps_per_epoch=8, power=power), total)
    rising = [base * (i + 1) / warmup for i in range(warmup)]
    falling = [base * (1 - (i - warmup) / total) ** power for i in range(warmup, total)]
    assert rates == pytest.approx(rising + falling, rel=1e-12)


def test_a_power_of_nothing_keeps_the_rate() -> None:
    rates = rates_of(WarmupPoly(optimizer_of(0.3), 2, max_epochs=3, steps_per_epoch=4, power=0.0), 12)
    assert rates == pytest.approx([0.15, *[0.3] * 11])


def test_every_group_keeps_its_share() -> None:
    schedule = WarmupPoly(optimizer_of(1.0, 0.1), 4, max_epochs=10, steps_per_epoch=4)
    for _ in range(20):
        schedule.optimizer.step()
        schedule.step()
        fast, slow = schedule.get_last_lr()
        assert slow == pytest.approx(fast / 10)


def test_without_warmup_it_starts_at_the_base_rate() -> None:
    assert WarmupPoly(optimizer_of(0.2), 0, max_epochs=1, steps_per_epoch=4).get_last_lr() == [0.2]


def test_it_goes_on_from_its_state() -> None:
    whole = rates_of(WarmupPoly(optimizer_of(1.0), 3, max_epochs=8, steps_per_epoch=5), 40)
    first = WarmupPoly(optimizer_of(1.0), 3, max_epochs=8, steps_per_epoch=5)
    rates_of(first, 17)
    second = WarmupPoly(optimizer_of(1.0), 3, max_epochs=8, steps_per_epoch=5)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates_of(second, 23) == whole[17:]


def test_a_run_that_is_made_longer_follows_the_longer_curve() -> None:
    short = WarmupPoly(optimizer_of(1.0), 0, max_epochs=1, steps_per_epoch=10)
    rates_of(short, 10)
    longer = WarmupPoly(optimizer_of(1.0), 0, max_epochs=2, steps_per_epoch=10)
    longer.load_state_dict(short.state_dict())
    longer.step()
    assert longer.get_last_lr()[0] == pytest.approx((1 - 11 / 20) ** 0.9)


def test_it_ends_at_zero_and_stays_there() -> None:
    schedule = WarmupPoly(optimizer_of(1.0), 0, max_epochs=1, steps_per_epoch=4)
    assert rates_of(schedule, 7)[4:] == [0, 0, 0]


def test_accumulated_batches_share_one_step_of_the_schedule() -> None:
    # 5 batches an epoch by twos: three steps of the optimiser, the third of a single batch
    many = rates_of(WarmupPoly(optimizer_of(1.0), 3, max_epochs=12, steps_per_epoch=5, accumulation_steps=2), 60)
    few = rates_of(WarmupPoly(optimizer_of(1.0), 3, max_epochs=12, steps_per_epoch=3), 36)
    assert many == [few[3 * epoch + step] for epoch in range(12) for step in (0, 0, 1, 1, 2)]


def test_the_warmup_is_a_quarter_of_a_short_run_at_most(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rates = rates_of(WarmupPoly(optimizer_of(1.0), 250, max_epochs=4, steps_per_epoch=10), 40)
    assert rates[:11] == pytest.approx([0.1 * step for step in range(1, 11)] + [1.0])
    assert "cut to 10" in caplog.text


def test_a_longer_warmup_can_be_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        schedule = WarmupPoly(optimizer_of(1.0), 60, max_epochs=4, steps_per_epoch=25, max_warmup_share=1.0)
    assert schedule.warmup_steps == 60
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"accumulation_steps": 0}, "accumulation_steps"),
        ({"power": -0.1}, "power"),
        ({"max_warmup_share": 1.5}, "max_warmup_share"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        WarmupPoly(optimizer_of(1.0), **{"max_epochs": 1, "steps_per_epoch": 1, **arguments})


def train(folder: Path, epochs: int, resume: bool = False, accumulation: int = 1) -> list[float]:
    """Train with MONAI's handler, and return the rate of every batch."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    schedule = WarmupPoly(
        optimizer, 2, max_epochs=4, steps_per_epoch=5, accumulation_steps=accumulation, max_warmup_share=1.0
    )
    rates: list[float] = []
    batch = {"image": torch.ones(1, 1), "label": torch.zeros(1, 1)}

    def loss(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        rates.append(optimizer.param_groups[0]["lr"])
        return (prediction - label).square().mean()

    objects = {"network": network, "optimizer": optimizer, "lr_scheduler": schedule}
    GuardedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=[batch] * 5,
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        train_handlers=[
            LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
            RunCheckpoint(folder, objects, resume=resume),
        ],
        accumulation_steps=accumulation,
    ).run()
    return rates


def test_a_resumed_training_has_the_rates_of_a_whole_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 4)
    assert whole == rates_of(WarmupPoly(optimizer_of(1e-3), 2, max_epochs=4, steps_per_epoch=5), 20)
    assert train(tmp_path / "parts", 2) + train(tmp_path / "parts", 4, resume=True) == whole


def test_accumulation_causes_no_warning_about_the_order_of_steps(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(tmp_path, 1, accumulation=2)
