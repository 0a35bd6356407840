# SPDX-License-Identifier: Apache-2.0
"""StructureLoss against its contract and the formula written pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.losses import StructureLoss
from tests.contracts import LossContract


def naive(logits: Tensor, masks: Tensor, weighting: str, half: int) -> Tensor:
    """The formula of the docstring with loops over pixels; masks (B, C, H, W)."""
    batch, channels, height, width = masks.shape
    parts, plain = [], []
    for b in range(batch):
        for c in range(channels):
            intersection = union = weight_sum = weighted = 0.0
            for y in range(height):
                for x in range(width):
                    area = masks[b, c, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
                    m, z = float(masks[b, c, y, x]), float(logits[b, c, y, x])
                    w = 1 + 5 * abs(float(area.sum()) / (2 * half + 1) ** 2 - m)
                    p = 1 / (1 + math.exp(-z))
                    entropy = -(m * math.log(p) + (1 - m) * math.log(1 - p))
                    plain.append(entropy)
                    weighted, weight_sum = weighted + w * entropy, weight_sum + w
                    intersection, union = intersection + w * p * m, union + w * (p + m)
            iou = 1 - (intersection + 1) / (union - intersection + 1)
            parts.append((weighted / weight_sum, iou))
    mean = sum(plain) / len(plain)
    values = [(mean if weighting == "official" else own) + iou for own, iou in parts]
    return torch.tensor(sum(values) / len(values), dtype=logits.dtype)


class TestOfficialBinary(LossContract):
    weighting = "official"

    def build(self) -> nn.Module:
        return StructureLoss(self.weighting, kernel_size=5)

    def target(self) -> Tensor:
        target = torch.zeros(2, 1, 9, 11)
        target[0, 0, 2:6, 3:8] = 1
        target[1, 0, 5:, :4] = 1
        return target

    def perfect(self, target: Tensor) -> Tensor:
        return (2 * target - 1) * 40

    def reference(self, logits: Tensor, target: Tensor) -> Tensor:
        return naive(logits, target, self.weighting, half=2)


class TestPaperBinary(TestOfficialBinary):
    weighting = "paper"


class TestPaperThreeClasses(TestOfficialBinary):
    weighting = "paper"

    def target(self) -> Tensor:
        target = super().target()
        target[0, 0, 7:, 8:] = 2
        return target

    def perfect(self, target: Tensor) -> Tensor:
        masks = torch.cat([target == c for c in range(3)], dim=1).to(target.dtype)
        return (2 * masks - 1) * 40

    def reference(self, logits: Tensor, target: Tensor) -> Tensor:
        masks = torch.cat([target == c for c in range(3)], dim=1).to(logits.dtype)
        return naive(logits, masks, self.weighting, half=2)


def test_published_kernel_equals_square_pooling() -> None:
    masks = torch.rand(1, 2, 40, 37)
    square = torch.nn.functional.avg_pool2d(masks, 31, stride=1, padding=15)
    torch.testing.assert_close(StructureLoss()._local_mean(masks), square)


def test_weighting_matters_only_when_asked_for() -> None:
    target = torch.zeros(1, 1, 40, 40)
    target[..., 10:30, 10:30] = 1
    logits = torch.randn(1, 1, 40, 40)
    assert StructureLoss("paper")(logits, target) != StructureLoss("official")(logits, target)


def test_soft_masks_are_allowed_for_one_channel() -> None:
    assert StructureLoss()(torch.randn(1, 1, 8, 8), torch.rand(1, 1, 8, 8)).isfinite()


def test_autocast_does_not_change_the_value() -> None:
    target, logits = torch.zeros(1, 1, 64, 64), torch.randn(1, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = StructureLoss()(logits, target)
    torch.testing.assert_close(inside, StructureLoss()(logits, target), atol=0, rtol=0)


@pytest.mark.parametrize("arguments", [{"bce_weighting": "none"}, {"kernel_size": 30}])
def test_a_bad_argument_is_named(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        StructureLoss(**arguments)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="target must be"):
        StructureLoss()(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9))
