# SPDX-License-Identifier: Apache-2.0
"""A network with SAM-SP's interface whose result can be worked out by hand, and helpers around it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

NO_BOX = (float("nan"),) * 4


class Embedded(NamedTuple):
    embedding: Tensor


class Found(NamedTuple):
    logits: Tensor
    first_logits: Tensor
    boxes: Tensor
    prompts: list[str]


class PromptedToy(nn.Module):
    """The first mask is what is brighter than 0.5; a box cuts it; points alone set single pixels.

    Attributes:
        encoded: batch sizes of its encoder passes.
        decoded: batch sizes of its calls of ``segment``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.encoded: list[int] = []
        self.decoded: list[int] = []

    def embed(self, image: Tensor) -> Embedded:
        self.encoded.append(len(image))
        middle = image.shape[1] // 2  # of the channels: the slice itself among its neighbours
        return Embedded(image[:, middle : middle + 1] * self.weight - 0.5)

    def segment(
        self,
        image: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        first_only: bool = False,
        embedded: Embedded | None = None,
    ) -> Found:
        first = (self.embed(image) if embedded is None else embedded).embedding
        self.decoded.append(len(first))
        logits, used, prompts = first.clone(), torch.full((len(first), 4), torch.nan), []
        for index in range(len(first)):
            box = torch.tensor(NO_BOX) if boxes is None else boxes[index]
            name = "box" if bool(box.isfinite().all()) else "self"
            if name == "self" and not first_only and points is None:
                box = box_of(first[index, 0] > 0)
            if points is not None and point_labels is not None:
                name = "points"
                logits[index] = -1
                for (x, y), label in zip(points[index].tolist(), point_labels[index].tolist(), strict=True):
                    logits[index, 0, round(y), round(x)] = 2.0 * label - 1
            if bool(box.isfinite().all()):
                used[index] = box
                x0, y0, x1, y1 = (round(number) for number in box.tolist())
                inside = torch.zeros_like(first[index, 0], dtype=torch.bool)
                inside[y0 : y1 + 1, x0 : x1 + 1] = True
                logits[index, 0] = torch.where(inside, logits[index, 0] + (3.0 if name == "box" else 0.0), -1.0)
            prompts.append("null" if name == "self" and not bool(box.isfinite().all()) else name)
        return Found(logits, first, used, prompts)


def box_of(mask: Tensor) -> Tensor:
    """The box x0, y0, x1, y1 of a mask (H, W), NaN for an empty one."""
    places = mask.nonzero()
    if len(places) == 0:
        return torch.tensor(NO_BOX)
    return torch.stack([*places.amin(0).flip(0), *places.amax(0).flip(0)]).float()


def slices_of(result: Tensor) -> list[dict[str, Any]]:
    """The record of a result of one image, slice by slice."""
    assert isinstance(result, MetaTensor)
    text = result.meta["prompts"]
    slices: list[dict[str, Any]] = json.loads(text[0] if isinstance(text, list) else text)["slices"]
    return slices
