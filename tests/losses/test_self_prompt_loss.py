# SPDX-License-Identifier: Apache-2.0
"""SelfPromptLoss against its contract, the formula written pixel by pixel, and the laws of its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from torch import Tensor

from monai_ext.engines import GuardedTrainer
from monai_ext.losses import SelfPromptLoss
from tests.contracts import LossContract


def naive_dice(logits: Tensor, target: Tensor) -> float:
    """1 - (2 sum(p y) + 1e-5) / (sum p + sum y + 1e-5), the mean over samples and classes, with loops."""
    parts = []
    for sample, truth in zip(logits, target, strict=True):
        for index in range(len(sample)):
            overlap = total = 0.0
            for y in range(sample.shape[1]):
                for x in range(sample.shape[2]):
                    p = probabilities(sample[:, y, x])[index if len(sample) > 1 else 1]
                    value = float(truth[0, y, x])
                    m = value if len(sample) == 1 else float(value == index)
                    overlap, total = overlap + p * m, total + p + m
            parts.append(1 - (2 * overlap + 1e-5) / (total + 1e-5))
    return sum(parts) / len(parts)


def naive_divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> float:
    """T^2 times the mean over pixels of sum over classes of p log(p / q), with loops."""
    parts = []
    for told, learnt in zip(teacher, student, strict=True):
        for y in range(told.shape[1]):
            for x in range(told.shape[2]):
                p, q = (probabilities(z[:, y, x] / temperature) for z in (told, learnt))
                parts.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return temperature**2 * sum(parts) / len(parts)


def probabilities(logits: Tensor) -> list[float]:
    """Probabilities of one pixel's classes; a single logit means background and object."""
    values = logits.tolist() if len(logits) > 1 else [0.0, float(logits)]
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


class AsOneTensor(nn.Module):
    """The contract's losses take one tensor: the last mask's channels, then the first's, all at the label's size."""

    def __init__(self, loss: SelfPromptLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        last, first = logits.chunk(2, dim=1)
        return self.loss([last, last, first], target)


class TestBinary(LossContract):
    num_classes = 1

    def build(self) -> nn.Module:
        # a detached teacher has, on purpose, another gradient than its value
        return AsOneTensor(SelfPromptLoss(self.num_classes, 0.7, 2.0, detach_teacher=False, y0_weight=0.5))

    def target(self) -> Tensor:
        target = torch.zeros(2, 1, 5, 6)
        target[0, 0, 1:4, 2:5] = 1
        target[1, 0, 3:, :2] = 1
        return target

    def perfect(self, target: Tensor) -> Tensor:
        return (2 * target - 1).repeat(1, 2, 1, 1) * 40

    def reference(self, logits: Tensor, target: Tensor) -> Tensor:
        last, first = logits.chunk(2, dim=1)
        value = naive_dice(last, target) + 0.7 * naive_divergence(last, first, 2.0) + 0.5 * naive_dice(first, target)
        return torch.tensor(value, dtype=logits.dtype)


class TestThreeClasses(TestBinary):
    num_classes = 3

    def target(self) -> Tensor:
        target = super().target()
        target[0, 0, 4:, 4:] = 2
        target[1, 0, 0, 0] = 2  # every class in every sample, or a certain prediction still costs something
        return target

    def perfect(self, target: Tensor) -> Tensor:
        masks = torch.cat([target == c for c in range(3)], dim=1).to(target.dtype)
        return (2 * masks - 1).repeat(1, 2, 1, 1) * 40


def outputs_of(channels: int = 1, masks: int = 2) -> list[Tensor]:
    """Logits as a network gives them in training: a final map of 12 x 8, masks of 6 x 4 before it."""
    final = torch.randn(2, channels, 12, 8).requires_grad_()
    return [final, *(torch.randn(2, channels, 6, 4).requires_grad_() for _ in range(masks))]


def label(classes: int = 2) -> Tensor:
    return torch.randint(0, classes, (2, 1, 12, 8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_value_equals_the_formula_in_double_precision(channels: int, temperature: float) -> None:
    outputs = [logits.double() for logits in outputs_of(channels)]
    target = label(max(channels, 2))
    value = SelfPromptLoss(channels, alpha=0.3, temperature=temperature)(outputs, target)
    expected = naive_dice(outputs[0], target) + 0.3 * naive_divergence(outputs[1], outputs[2], temperature)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("channels", "probability"), [(1, torch.sigmoid), (3, lambda z: torch.softmax(z, dim=1))], ids=["one", "three"]
)
def test_the_first_mask_is_pulled_by_the_difference_of_probabilities(
    channels: int, probability: Callable[[Tensor], Tensor]
) -> None:
    final, last, first = outputs_of(channels)
    SelfPromptLoss(channels)([final, last, first], label(max(channels, 2))).backward()
    pixels = 2 * 6 * 4
    torch.testing.assert_close(first.grad, (probability(first) - probability(last)).detach() / pixels)
    assert last.grad is None
    assert final.grad is not None


def test_the_teacher_learns_only_when_it_is_not_detached() -> None:
    final, last, first = outputs_of()
    SelfPromptLoss(1, detach_teacher=False)([final, last, first], label()).backward()
    assert last.grad is not None
    assert last.grad.abs().sum() > 0


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    sizes = []
    for temperature in (1.0, 50.0):
        torch.manual_seed(0)
        final, last, first = outputs_of()
        SelfPromptLoss(1, temperature=temperature)([final, last, first], label()).backward()
        sizes.append(first.grad.norm())
    assert 0.5 < sizes[1] / sizes[0] < 2


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_masks_have_nothing_to_distil(channels: int) -> None:
    final, last, _ = outputs_of(channels)
    loss = SelfPromptLoss(channels)
    value = loss([final, last, last.clone()], label(max(channels, 2)))
    assert loss.terms["distillation"] == 0
    assert value == loss.terms["dice"]


def test_the_direction_decides_who_is_measured_by_whom() -> None:
    final, last, first = (logits.double() for logits in outputs_of())
    forward, backward = SelfPromptLoss(1), SelfPromptLoss(1, kd_direction="student_teacher")
    forward([final, last, first], label())
    backward([final, last, first], label())
    assert float(forward.terms["distillation"]) == pytest.approx(naive_divergence(last, first))
    assert float(backward.terms["distillation"]) == pytest.approx(naive_divergence(first, last))


def test_the_other_direction_still_detaches_the_teacher() -> None:
    final, last, first = outputs_of()
    SelfPromptLoss(1, kd_direction="student_teacher")([final, last, first], label()).backward()
    assert last.grad is None
    assert first.grad.abs().sum() > 0


def test_every_earlier_mask_learns_from_the_last() -> None:
    final, last, first, second = (logits.double() for logits in outputs_of(masks=3))
    loss = SelfPromptLoss(1)
    loss([final, last, first, second], label())
    expected = (naive_divergence(last, first) + naive_divergence(last, second)) / 2
    assert float(loss.terms["distillation"]) == pytest.approx(expected)


def test_a_single_mask_has_its_dice_alone() -> None:
    final, last = outputs_of(masks=1)
    loss, target = SelfPromptLoss(1, y0_weight=0.5), label()
    value = loss([final, last], target)
    assert value == loss.terms["dice"] == loss.terms["dice_first"]
    assert loss.terms["distillation"] == 0


def test_the_first_masks_dice_trains_it_only_when_asked() -> None:
    target, gradients = label(), []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        final, last, first = outputs_of()
        loss = SelfPromptLoss(1, alpha=0.0, y0_weight=weight)
        value = loss([final, last, first], target)
        value.backward()
        gradients.append(first.grad.abs().sum())
        torch.testing.assert_close(value.detach(), loss.terms["dice"] + weight * loss.terms["dice_first"])
    assert gradients[0] == 0
    assert gradients[1] > 0


def test_the_first_mask_is_enlarged_to_the_label() -> None:
    final, last, first = (logits.double() for logits in outputs_of())
    loss, target = SelfPromptLoss(1), label()
    loss([final, last, first], target)
    enlarged = nn.functional.interpolate(first, size=(12, 8), mode="bilinear", align_corners=False)
    assert float(loss.terms["dice_first"]) == pytest.approx(naive_dice(enlarged, target))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [200.0, 1e4])
def test_certain_masks_that_contradict_each_other_are_finite(channels: int, size: float) -> None:
    final, last, first = (torch.full((1, channels, 4, 4), 0.0).requires_grad_() for _ in range(3))
    signs = torch.tensor([1.0, -1.0, 1.0])[:channels].reshape(1, channels, 1, 1)
    value = SelfPromptLoss(channels)([final, last + size * signs, first - size * signs], torch.zeros(1, 1, 4, 4))
    value.backward()
    assert value.isfinite()
    assert first.grad.isfinite().all()


def test_autocast_does_not_change_the_value() -> None:
    outputs, target = outputs_of(), label()
    with torch.autocast("cpu", torch.bfloat16):
        inside = SelfPromptLoss(1)(outputs, target)
    torch.testing.assert_close(inside, SelfPromptLoss(1)(outputs, target), atol=0, rtol=0)


def test_half_precision_logits_are_summed_in_float32() -> None:
    outputs = [logits.to(torch.bfloat16) for logits in outputs_of()]
    assert SelfPromptLoss(1)(outputs, label()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_the_labels_type_does_not_matter(dtype: torch.dtype) -> None:
    outputs, target = outputs_of(), label()
    torch.testing.assert_close(SelfPromptLoss(1)(outputs, target.to(dtype)), SelfPromptLoss(1)(outputs, target.float()))


class ThreeHeads(nn.Module):
    """In training a list of a final map and two masks of half its size, as SAM-SP gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(1, 1, 1) for _ in range(3))

    def forward(self, image: Tensor) -> list[Tensor]:
        final, last, first = (head(image) for head in self.heads)
        return [final, last[..., ::2, ::2], first[..., ::2, ::2]]


@pytest.mark.parametrize("amp", [False, True])
def test_a_trainer_uses_it_on_labels_as_they_come_from_a_loader(amp: bool) -> None:
    items = [{"image": MetaTensor(torch.rand(1, 8, 8)), "label": MetaTensor(torch.ones(1, 8, 8))} for _ in range(2)]
    network, loss = ThreeHeads(), SelfPromptLoss(1)
    before = [head.weight.clone() for head in network.heads]
    GuardedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=[list_data_collate(items)],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 1.0),
        loss_function=loss,
        amp=amp,
    ).run()
    changed = [not torch.equal(head.weight, old) for head, old in zip(network.heads, before, strict=True)]
    assert changed == [True, False, True]
    assert {name: value.requires_grad for name, value in loss.terms.items()} == dict.fromkeys(
        ("dice", "distillation", "dice_first"), False
    )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"temperature": 0.0}, "temperature"),
        ({"kd_direction": "sideways"}, "kd_direction"),
        ({"alpha": -1.0}, "alpha"),
        ({"y0_weight": -1.0}, "y0_weight"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SelfPromptLoss(**{"num_classes": 1, **arguments})  # type: ignore[arg-type]


def test_the_output_of_a_network_that_is_not_training_is_refused() -> None:
    with pytest.raises(TypeError, match=r"network\.train\(\)"):
        SelfPromptLoss(1)(torch.zeros(2, 1, 12, 8), label())


@pytest.mark.parametrize(
    ("channels", "target", "message"),
    [
        (2, torch.zeros(2, 1, 12, 8), "num_classes = 1 channels, got 2"),
        (1, torch.zeros(2, 1, 6, 4), "target must be"),
        (1, torch.zeros(2, 12, 8), "target must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(channels: int, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfPromptLoss(1)(outputs_of(channels), target)


def test_masks_of_different_sizes_are_refused() -> None:
    final, last, _ = outputs_of()
    with pytest.raises(ValueError, match="one shape"):
        SelfPromptLoss(1)([final, last, final], label())
