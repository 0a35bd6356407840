# SPDX-License-Identifier: Apache-2.0
"""ReconstructionLoss: three distances, told apart by an example and by loops."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.losses import ReconstructionLoss


@pytest.mark.parametrize(("recon", "expected"), [("l2", 5.0), ("mse", 12.5), ("l1", 3.5)])
def test_the_example_of_the_specification(recon: str, expected: float) -> None:
    teacher, student = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert float(ReconstructionLoss(recon)(student, teacher)) == expected


def test_the_norm_is_that_of_each_sample_and_their_mean() -> None:
    said, wanted = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    norms = [math.sqrt(sum(x * x for x in (a - b).flatten().tolist())) for a, b in zip(said, wanted, strict=True)]
    assert float(ReconstructionLoss("l2")(said, wanted)) == pytest.approx(sum(norms) / 3, rel=1e-5)


@pytest.mark.parametrize("recon", ["mse", "l2", "l1"])
def test_gradient_is_right_in_double_precision(recon: str) -> None:
    said, wanted = torch.randn(2, 6, dtype=torch.double, requires_grad=True), torch.randn(2, 6, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda x: ReconstructionLoss(recon)(x, wanted), (said,))


@pytest.mark.parametrize("recon", ["mse", "l2", "l1"])
def test_at_the_target_it_is_zero_and_so_is_its_gradient(recon: str) -> None:
    said = torch.randn(2, 6, requires_grad=True)
    loss = ReconstructionLoss(recon)(said, said.detach().clone())
    loss.backward()
    assert float(loss) == 0
    assert said.grad is not None
    assert torch.equal(said.grad, torch.zeros(2, 6))


def test_the_list_of_a_network_is_taken_and_a_label_after_it_is_not_looked_at() -> None:
    said, wanted = torch.randn(2, 6), torch.randn(2, 6)
    loss = ReconstructionLoss()
    assert torch.equal(loss([said, wanted], torch.rand(2, 1, 4, 4)), loss(said, wanted))


def test_half_precision_is_summed_in_single() -> None:
    said, wanted = torch.full((1, 4096), 300.0, dtype=torch.float16), torch.zeros(1, 4096, dtype=torch.float16)
    assert [float(ReconstructionLoss(recon)(said, wanted)) for recon in ("mse", "l2")] == [90_000.0, 19_200.0]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="recon must be one of mse, l2, l1, got 'l3'"):
        ReconstructionLoss("l3")
    with pytest.raises(ValueError, match=r"one shape, got \(2, 1\) and \(2, 3\)"):  # would be broadcast
        ReconstructionLoss()(torch.rand(2, 1), torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"got \(2, 1\) and None"):
        ReconstructionLoss()(torch.rand(2, 1))
