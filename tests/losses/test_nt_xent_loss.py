# SPDX-License-Identifier: Apache-2.0
"""NTXentLoss against MONAI's loss, the formula written with loops, and where exponentials lose their digits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.losses import ContrastiveLoss
from torch import Tensor

from monai_ext.losses import NTXentLoss


def views(seed: int = 0, count: int = 6, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    first = torch.randn(count, 8)
    return first, first + noise * torch.randn(count, 8)


def naive(first: Tensor, second: Tensor, temperature: float) -> float:
    """The formula of the docstring, view by view, in double precision."""
    rows = [row.tolist() for row in (*first.double(), *second.double())]
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]
    total = 0.0
    for i, row in enumerate(rows):
        cosine = [sum(x * y for x, y in zip(row, other, strict=True)) for other in rows]
        partner = (i + len(rows) // 2) % len(rows)
        others = math.fsum(math.exp((c - cosine[partner]) / temperature) for k, c in enumerate(cosine) if k != i)
        total += math.log1p(others - 1)
    return total / len(rows)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_it_is_what_monai_computes(temperature: float) -> None:
    ours, theirs = NTXentLoss(temperature)(*views()), ContrastiveLoss(temperature)(*views())
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5])
def test_it_equals_the_formula_written_naively(temperature: float) -> None:
    assert float(NTXentLoss(temperature)(*views())) == pytest.approx(naive(*views(), temperature), rel=1e-4)


def test_a_small_loss_keeps_its_digits() -> None:
    first = torch.eye(8) + 0.01
    expected = naive(first, first, 0.1)
    assert 1e-4 < expected < 1e-2
    assert float(NTXentLoss(0.1)(first, first)) == pytest.approx(expected, rel=1e-4)


def test_a_low_temperature_overflows_nowhere() -> None:
    first, second = (view.requires_grad_() for view in views())
    loss = NTXentLoss(1e-3)(first, second)
    loss.backward()
    assert loss.isfinite()
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_gradient_is_right_in_double_precision() -> None:
    first, second = (view.detach().double().requires_grad_() for view in views(count=3))
    assert torch.autograd.gradcheck(NTXentLoss(0.5), (first, second))


def test_length_order_and_which_view_is_first_do_not_matter() -> None:
    first, second = views()
    loss, order = NTXentLoss()(first, second), torch.randperm(len(first))
    torch.testing.assert_close(NTXentLoss()(second, first), loss)
    torch.testing.assert_close(NTXentLoss()(3 * first[order], 0.2 * second[order]), loss)


def test_the_list_of_a_network_is_taken_and_a_label_after_it_is_not_looked_at() -> None:
    first, second = views()
    assert torch.equal(NTXentLoss()([first, second], torch.rand(2, 1, 4, 4)), NTXentLoss()(first, second))


def test_autocast_does_not_change_the_value() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        inside = NTXentLoss()(*views())
    torch.testing.assert_close(inside, NTXentLoss()(*views()), atol=0, rtol=0)


@pytest.mark.parametrize("given", [(torch.rand(3, 4), torch.rand(3, 5)), (torch.rand(1, 4), torch.rand(1, 4))])
def test_views_that_do_not_fit_are_named(given: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"\(N, C\) with N at least 2"):
        NTXentLoss()(*given)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        NTXentLoss(0)
