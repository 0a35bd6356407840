# SPDX-License-Identifier: Apache-2.0
"""Dice of the last mask, and the last mask as teacher of the ones before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

KD_DIRECTIONS = ("teacher_student", "student_teacher")


class SelfPromptLoss(nn.Module):
    r"""Loss of SAM-SP: Dice of the self-prompted mask plus self-distillation into the mask that gave the prompt.

    With the label :math:`y`, the first mask's logits :math:`z_0`, the last mask's :math:`z_1` and
    :math:`p_i = \sigma(z_i / T)` (softmax for several classes)

    .. math:: L = \mathrm{Dice}(z_1, y) + \alpha\, T^2\, \mathrm{KL}(p_1 \,\|\, p_0) + w_0\, \mathrm{Dice}(z_0, y).

    The method's sources give the form of the sum and which mask teaches; all else is this project's choice:

    - Dice is soft, per sample and class, then averaged (`monai.losses.DiceLoss`, smoothing 1e-5), on logits at the
      label's size. With several classes the background counts as one of them, as where this decoder comes from.
    - The divergence is summed over classes and averaged over the pixels of the decoder's own grid and over the
      batch. ``teacher_student`` is KL(teacher || student), as in knowledge distillation; ``student_teacher`` reads
      the notation KL(first, last) by the letter.
    - The teacher is not pulled towards its student (``detach_teacher``).
    - With more than two masks each one but the last is a student of the last; the mean over them counts. With a
      single mask only its Dice counts.

    All sums are taken in float32 (or float64, if that comes in) whatever autocast says. After a call ``terms`` has
    the parts of the sum before they are weighed, without gradient, for the log: ``dice``, ``distillation`` and
    ``dice_first``, the Dice loss of the first mask, which is there even if ``y0_weight`` is 0.

    Args:
        num_classes: channels of the logits; 1 is a mask by itself, more are classes with background 0.
        alpha: weight of the distillation.
        temperature: T.
        kd_direction: ``teacher_student`` or ``student_teacher``.
        detach_teacher: keep the distillation's gradient from the last mask.
        y0_weight: w0, weight of the first mask's own Dice.

    Shape:
        outputs: as the network gives them in training, final logits (B, C, H, W), then the last mask's logits
        (B, C, h, w), then those of the earlier masks, the first mask first. target (B, 1, H, W): for C = 1 a mask with
        values 0 to 1, for C > 1 class indices. -> a single number.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
        TypeError: the outputs are no sequence: the network is not in training mode.

    Example:
        >>> final, low, first = torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
        >>> loss = SelfPromptLoss(num_classes=1)
        >>> bool(loss([final, low, first], torch.ones(2, 1, 32, 32)).isfinite()), sorted(loss.terms)
        (True, ['dice', 'dice_first', 'distillation'])
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 1.0,
        temperature: float = 1.0,
        kd_direction: str = "teacher_student",
        detach_teacher: bool = True,
        y0_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        if kd_direction not in KD_DIRECTIONS:
            raise ValueError(f"kd_direction must be one of {', '.join(KD_DIRECTIONS)}, got {kd_direction!r}.")
        for name, weight in (("alpha", alpha), ("y0_weight", y0_weight)):
            if weight < 0:
                raise ValueError(f"{name} must be at least 0, got {weight}.")
        self.num_classes = num_classes
        self.alpha = alpha
        self.temperature = temperature
        self.kd_direction = kd_direction
        self.detach_teacher = detach_teacher
        self.y0_weight = y0_weight
        several = num_classes > 1
        self.dice = DiceLoss(sigmoid=not several, softmax=several, to_onehot_y=several, smooth_nr=1e-5, smooth_dr=1e-5)
        self.terms: dict[str, Tensor] = {}

    def forward(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        self._check(outputs, target)
        # bfloat16 cannot count the pixels of an image
        with torch.autocast(target.device.type, enabled=False):
            final, last, *earlier = (_at_least_float(logits) for logits in outputs)
            target = target.to(final.dtype)
            dice = loss = self.dice(final, target)
            distillation, dice_first = torch.zeros_like(dice), dice
            if earlier:
                distillation, dice_first = self._distillation(last, earlier), self._dice_first(earlier[0], target)
                loss = dice + self.alpha * distillation + self.y0_weight * dice_first
        terms = {"dice": dice, "distillation": distillation, "dice_first": dice_first}
        self.terms = {name: value.detach() for name, value in terms.items()}
        return loss

    def _distillation(self, last: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        teacher = last.detach() if self.detach_teacher else last
        parts = [self._divergence(teacher, student) for student in earlier]
        return self.temperature**2 * torch.stack(parts).mean()  # T^2 keeps the gradient's size

    def _divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        told, learnt = (log_probabilities(logits / self.temperature) for logits in (teacher, student))
        if self.kd_direction == "student_teacher":
            told, learnt = learnt, told
        each = F.kl_div(learnt, told, reduction="none", log_target=True)  # (B, C, h, w), told * log(told / learnt)
        return each.sum(dim=1).mean()

    def _dice_first(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.y0_weight > 0):
            enlarged = F.interpolate(logits, size=target.shape[2:], mode="bilinear", align_corners=False)
            return self.dice(enlarged, target)

    def _check(self, outputs: Sequence[Tensor], target: Tensor) -> None:
        if isinstance(outputs, Tensor) or len(outputs) < 2:
            raise TypeError(
                "outputs must be a list [final logits, last mask, earlier masks ...], as the network gives them in "
                f"training, got {type(outputs).__name__}; call network.train()."
            )
        batch, channels, *size = outputs[0].shape
        if channels != self.num_classes:
            raise ValueError(f"the logits must have num_classes = {self.num_classes} channels, got {channels}.")
        if target.shape != (batch, 1, *size):
            raise ValueError(f"target must be {(batch, 1, *size)} to fit the logits, got {tuple(target.shape)}.")
        if len({logits.shape for logits in outputs[1:]}) > 1:
            raise ValueError(f"all masks must have one shape, got {[tuple(logits.shape) for logits in outputs[1:]]}.")


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the logarithms of the probabilities (B, max(C, 2), h, w); one channel means background and object."""
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)
    return F.log_softmax(logits, dim=1)


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
