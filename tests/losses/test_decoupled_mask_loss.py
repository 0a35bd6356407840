# SPDX-License-Identifier: Apache-2.0
"""DecoupledMaskLoss against its contract, the formula written pixel by pixel, and what decouples masks from prompts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn as nn
from monai.losses import DiceCELoss
from torch import Tensor

from monai_ext.losses import DecoupledMaskLoss
from tests.contracts import LossContract

POINTS = torch.tensor([[3.0, 1.0], [5.0, 0.0]])  # on object 1 of the first sample, beside all of the second


def naive(logits: Tensor, target: Tensor, ious: Tensor | None = None) -> float:
    """1 Dice + 1 cross entropy + 10 squared error of the IoUs, with loops."""
    dice, entropy, errors = [], [], []
    for sample, truth, point in zip(logits, target, POINTS, strict=True):
        for k in range(len(sample)):
            overlap = squares = 0.0
            for y in range(sample.shape[1]):
                for x in range(sample.shape[2]):
                    p = 1 / (1 + math.exp(-float(sample[k, y, x])))
                    m = float(truth[0, y, x] == k + 1)
                    overlap, squares = overlap + p * m, squares + p * p + m * m
                    entropy.append(-math.log(p if m else 1 - p))
            dice.append(1 - (2 * overlap + 1e-5) / (squares + 1e-5))
        hit = truth[0, int(point[1]), int(point[0])]
        errors += [float(hit == k + 1) for k in range(len(sample))]
    value = sum(dice) / len(dice) + sum(entropy) / len(entropy)
    if ious is not None:
        value += 10 * sum((q - e) ** 2 for q, e in zip(ious.flatten().tolist(), errors, strict=True)) / len(errors)
    return value


class MasksOnly(nn.Module):
    """Whole-box mode has no IoU."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = DecoupledMaskLoss()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.loss([logits], target)


class TestOneObject(LossContract):
    objects = 1

    def build(self) -> nn.Module:
        return MasksOnly()

    def target(self) -> Tensor:
        target = torch.zeros(2, 1, 5, 6)
        target[0, 0, 1:4, 2:5] = 1
        target[1, 0, 3:, :2] = self.objects
        return target

    def perfect(self, target: Tensor) -> Tensor:
        masks = torch.cat([target == k + 1 for k in range(self.objects)], dim=1).to(target.dtype)
        return (2 * masks - 1) * 40

    def reference(self, logits: Tensor, target: Tensor) -> Tensor:
        return torch.tensor(naive(logits, target))


class TestTwoObjects(TestOneObject):
    objects = 2

    def target(self) -> Tensor:
        target = super().target()
        target[0, 0, 4:, 5:] = 2
        target[1, 0, :2, 2:4] = 1  # every object in every sample, or smoothing decides
        return target


@pytest.mark.parametrize("objects", [1, 2])
def test_with_ious_it_equals_the_formula_written_naively(objects: int) -> None:
    target = (TestOneObject() if objects == 1 else TestTwoObjects()).target()
    logits, ious = torch.randn(2, objects, 5, 6), torch.randn(2, objects)
    loss = DecoupledMaskLoss()
    found = loss([logits, ious, POINTS], target)
    assert float(found) == pytest.approx(naive(logits, target, ious), rel=1e-5)
    total = loss.terms["dice"] + loss.terms["ce"] + 10 * loss.terms["iou"]
    torch.testing.assert_close(found, total)


def test_one_object_is_what_monai_has_since_it_counts_single_channels() -> None:
    target = TestOneObject().target()
    logits = torch.randn(2, 1, 5, 6)
    settings = {"sigmoid": True, "squared_pred": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    torch.testing.assert_close(DecoupledMaskLoss()([logits], target), DiceCELoss(**settings)(logits, target))


def test_the_published_code_is_dice_and_absolute_error() -> None:
    target, logits = TestOneObject().target(), torch.randn(2, 1, 5, 6)
    loss = DecoupledMaskLoss(ce_weight=0, iou_weight=1, iou_loss="l1")
    found = loss([logits, torch.tensor([[0.25], [0.5]]), POINTS], target)
    torch.testing.assert_close(found, loss.terms["dice"] + (0.75 + 0.5) / 2)


def test_the_mask_does_not_depend_on_where_the_point_is() -> None:
    target, logits = TestOneObject().target(), torch.randn(2, 1, 5, 6).requires_grad_()
    gradients = []
    for points in (POINTS, POINTS.flip(0)):
        (gradient,) = torch.autograd.grad(DecoupledMaskLoss()([logits, torch.zeros(2, 1), points], target), logits)
        gradients.append(gradient)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("iou_loss", ["mse", "l1"])
def test_the_best_iou_says_whether_the_point_is_on_the_object(iou_loss: str) -> None:
    target, logits = TestTwoObjects().target(), torch.zeros(2, 2, 5, 6)
    loss = DecoupledMaskLoss(iou_loss=iou_loss)
    loss([logits, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), POINTS], target)
    assert float(loss.terms["iou"]) == 0
    loss([logits, torch.tensor([[0.0, 1.0], [0.0, 0.0]]), POINTS], target)
    assert float(loss.terms["iou"]) == 0.5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"iou_loss": "huber"}, "mse, l1"),
        ({"dice_weight": -1}, "dice_weight"),
        ({"iou_weight": math.nan}, "iou_weight"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DecoupledMaskLoss(**arguments)  # type: ignore[arg-type]


def test_outputs_that_do_not_fit_are_refused() -> None:
    loss, target = DecoupledMaskLoss(), torch.zeros(2, 1, 5, 6)
    with pytest.raises(TypeError, match="train"):
        loss(torch.zeros(2, 1, 5, 6), target)
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 6\)"):
        loss([torch.zeros(2, 1, 4, 6)], target)
    with pytest.raises(ValueError, match="IoUs"):
        loss([torch.zeros(2, 1, 5, 6), torch.zeros(2, 2), POINTS], target)
