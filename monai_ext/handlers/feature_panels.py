# SPDX-License-Identifier: Apache-2.0
"""What teacher and student say about each patch of an image, and how well they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

COLOURS = 3


class FeaturePanels:
    """Turn a student's and a teacher's map of features for one image into pictures, for `SamplePictures`.

    The three directions in which the teacher's features of this image vary most become red, green and blue, for both,
    so that equal colours mean equal features. The last picture is the cosine between both at each patch, brighter
    where they agree better; its title has the mean.

    Example:
        >>> features = torch.rand(8, 4, 4)
        >>> output = {"image": torch.rand(1, 64, 64), "pred": [features, features]}
        >>> {title: tuple(picture.shape) for title, picture in FeaturePanels()(output).items()}
        {'given': (1, 64, 64), 'teacher': (3, 4, 4), 'student': (3, 4, 4), 'cosine, mean 1.00': (1, 4, 4)}
    """

    def __call__(self, output: Mapping[str, Any]) -> dict[str, Tensor]:
        student, teacher = (features.detach().float().cpu() for features in output["pred"])
        mean, axes = _main_axes(teacher.flatten(1).T)
        cosine = F.cosine_similarity(student, teacher, dim=0)
        return {
            "given": output["image"],
            "teacher": _coloured(teacher, mean, axes),
            "student": _coloured(student, mean, axes),
            f"cosine, mean {float(cosine.mean()):.2f}": cosine[None],
        }


def _main_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) of rows (L, C) and the directions in which they vary most, (3, C); zeros where there are fewer."""
    mean = rows.mean(dim=0)
    axes = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:COLOURS]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = axes * largest.sign()  # a direction and its opposite are as good: always the same one
    return mean, F.pad(axes, (0, 0, 0, COLOURS - len(axes)))


def _coloured(features: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """(C, g, g) -> (3, g, g)"""
    return ((features.flatten(1).T - mean) @ axes.T).T.unflatten(1, features.shape[1:])
