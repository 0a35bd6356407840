# SPDX-License-Identifier: Apache-2.0
"""SAMedLoss against its contract, the formula written pixel by pixel, and MONAI's loss of the same two parts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn as nn
from monai.losses import DiceCELoss
from torch import Tensor

from monai_ext.losses import SAMedLoss
from tests.contracts import LossContract


def naive(logits: Tensor, target: Tensor, dice_weight: float) -> Tensor:
    """The formula of the docstring with loops over pixels; the label has the size of the logits."""
    batch, classes, height, width = logits.shape
    entropy, overlap, squares, area = 0.0, [0.0] * classes, [0.0] * classes, [0.0] * classes
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                powers = [math.exp(float(z)) for z in logits[b, :, y, x]]
                truth = int(target[b, 0, y, x])
                entropy -= math.log(powers[truth] / sum(powers))
                for c, power in enumerate(powers):
                    p = power / sum(powers)
                    overlap[c] += p * (c == truth)
                    squares[c] += p * p
                    area[c] += c == truth
    dice = [1 - (2 * o + 1e-5) / (s + a + 1e-5) for o, s, a in zip(overlap, squares, area, strict=True)]
    value = (1 - dice_weight) * entropy / (batch * height * width) + dice_weight * sum(dice) / classes
    return torch.tensor(value, dtype=logits.dtype)


class AsOneTensor(nn.Module):
    """The contract's losses take one tensor: the decoder's logits."""

    def __init__(self, loss: SAMedLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.loss([logits[:, :1], logits], target)


class TestTwoClasses(LossContract):
    classes = 2
    weight = 0.8

    def build(self) -> nn.Module:
        return AsOneTensor(SAMedLoss(self.weight))

    def target(self) -> Tensor:
        target = torch.zeros(2, 1, 5, 6)
        target[0, 0, 1:4, 2:5] = self.classes - 1
        target[1, 0, 3:, :2] = 1
        return target

    def perfect(self, target: Tensor) -> Tensor:
        classes = torch.arange(self.classes).reshape(1, -1, 1, 1)
        return 40.0 * (target == classes) - 20.0

    def reference(self, logits: Tensor, target: Tensor) -> Tensor:
        return naive(logits, target, self.weight)


class TestThreeClassesMostlyEntropy(TestTwoClasses):
    classes = 3
    weight = 0.1


@pytest.mark.parametrize("classes", [2, 9])
def test_it_is_monais_loss_at_the_decoders_resolution(classes: int) -> None:
    logits, label = torch.randn(3, classes, 8, 8), torch.randint(0, classes, (3, 1, 8, 8)).float()
    enlarged = label.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    theirs = DiceCELoss(
        softmax=True, to_onehot_y=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5, lambda_dice=0.8,
        lambda_ce=0.2,
    )  # fmt: skip
    torch.testing.assert_close(SAMedLoss()([torch.rand(3, 1, 32, 32), logits], enlarged), theirs(logits, label))


def test_the_label_is_taken_at_the_centre_of_each_cell() -> None:
    label = torch.zeros(1, 1, 12, 12)
    label[..., 1::3, 1::3] = 1  # the middle pixel of each cell of 3 x 3
    certain = torch.tensor([-20.0, 20.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert SAMedLoss()([label, certain], label) < 1e-4


def test_the_terms_are_what_is_weighed() -> None:
    loss, outputs, label = SAMedLoss(0.3), [torch.zeros(2, 1, 8, 8), torch.randn(2, 2, 8, 8)], torch.ones(2, 1, 8, 8)
    total = loss(outputs, label)
    torch.testing.assert_close(total, 0.7 * loss.terms["ce"] + 0.3 * loss.terms["dice"])


def test_sums_are_taken_in_single_precision_under_autocast() -> None:
    logits, label = torch.randn(1, 2, 64, 64), (torch.rand(1, 1, 64, 64) > 0.5).float()
    expected = SAMedLoss()([logits, logits], label)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(SAMedLoss()([logits, logits], label), expected)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(TypeError, match=r"network.train\(\)"):
        SAMedLoss()(torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"target must be \(1, 1, height, width\), got \(1, 2, 8, 8\)"):
        SAMedLoss()([torch.zeros(1), torch.zeros(1, 2, 8, 8)], torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match="2 channels or more, got 1"):
        SAMedLoss()([torch.zeros(1), torch.zeros(1, 1, 8, 8)], torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="dice_weight"):
        SAMedLoss(1.5)
