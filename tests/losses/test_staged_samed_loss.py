# SPDX-License-Identifier: Apache-2.0
"""StagedSAMedLoss: SAMed's loss for one stage, and the published weights of the epoch for two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ext.losses import SAMedLoss, StagedSAMedLoss


def outputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 1, 32, 32), (2, 3, 8, 8), (2, 3, 32, 32)]
    return [torch.randn(size, generator=generator) for size in sizes]


def target() -> Tensor:
    return torch.randint(0, 3, (2, 1, 32, 32), generator=torch.Generator().manual_seed(1)).float()


def test_a_decoder_of_one_stage_has_the_plain_loss() -> None:
    loss, plain = StagedSAMedLoss(0.3), SAMedLoss(0.3)
    loss.set_epoch(7)
    assert torch.equal(loss(outputs()[:2], target()), plain(outputs()[:2], target()))
    assert loss.terms == plain.terms


@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.6), (29, 0.682717), (100, 0.829461), (299, 0.975013)])
def test_the_second_stage_weighs_what_the_published_code_gives_it(epoch: int, weight: float) -> None:
    loss, plain, (final, first, second) = StagedSAMedLoss(), SAMedLoss(), outputs()
    loss.set_epoch(epoch)
    expected = (1 - weight) * plain([final, first], target()) + weight * plain([final, second], target())
    torch.testing.assert_close(loss([final, first, second], target()), expected, atol=1e-6, rtol=1e-6)


def test_without_growth_the_weight_stays() -> None:
    loss = StagedSAMedLoss(second_weight=0.25, growth=1.0)
    loss.set_epoch(50)
    assert loss.share() == 0.25


def test_each_stage_meets_the_label_at_its_own_resolution() -> None:
    label = target()
    certain = [
        40.0 * (small == torch.arange(3).reshape(1, 3, 1, 1)) for small in (label[..., 2::4, 2::4], label)
    ]  # the pixel that nearest-exact takes from each 4 x 4 cell
    assert StagedSAMedLoss()([label, *certain], label) < 1e-4


def test_the_terms_are_those_of_both_stages() -> None:
    loss = StagedSAMedLoss()
    total = loss(outputs(), target())
    parts = {n: 0.2 * loss.terms[f"{n}_ce"] + 0.8 * loss.terms[f"{n}_dice"] for n in ("first", "second")}
    torch.testing.assert_close(total, 0.4 * parts["first"] + 0.6 * parts["second"])


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(TypeError, match=r"network.train\(\)"):
        StagedSAMedLoss()(outputs()[1], target())
    with pytest.raises(ValueError, match=r"second_weight must be in \[0, 1\], got 2"):
        StagedSAMedLoss(second_weight=2)
    with pytest.raises(ValueError, match="growth must be above 0 and at most 1, got 0"):
        StagedSAMedLoss(growth=0)
