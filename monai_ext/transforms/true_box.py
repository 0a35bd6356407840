# SPDX-License-Identifier: Apache-2.0
"""The box of the true object on every slice, for measuring what a perfect prompt would give."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_ext.prompts import TRUE_BOXES, with_meta


class TrueBoxd(MapTransform):
    """Put the bounding boxes of the label's foreground into the image's metadata, for ``prompt_source="truth"``.

    One box per slice around all that is not background, however many components or classes, as the method's own
    self-prompt has it; slices without foreground get none. The boxes of slices along each axis are kept, since
    which plane the network sees is the inferer's matter. Put it last, behind `PrepareLabeld`.

    Args:
        keys: of the label, (1, X, Y[, Z]) class indices; where it is absent nothing happens.
        image_key: of the image that gets the boxes, in the same grid.

    Example:
        >>> label = torch.zeros(1, 6, 5)
        >>> label[0, 2:4, 1] = 1
        >>> TrueBoxd(keys=["label"])({"image": torch.rand(1, 6, 5), "label": label})["image"].meta["true_boxes"]
        '[[[2, 1, 3, 1]]]'
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            label = result[key]
            mask = (label.as_tensor() if isinstance(label, MetaTensor) else label).ne(0).any(dim=0)
            stacks = [mask[None]] if mask.ndim == 2 else [mask.movedim(axis, 0) for axis in range(3)]
            boxes = [_boxes(stack) for stack in stacks]
            result[self.image_key] = with_meta(result[self.image_key], {TRUE_BOXES: json.dumps(boxes)})
        return result


def _boxes(stack: Tensor) -> list[list[int] | None]:
    """Return the first and last index of the foreground along the two axes of each slice (N, P, Q), p0 q0 p1 q1."""
    lines = stack.any(dim=2), stack.any(dim=1)  # (N, P), (N, Q)
    firsts = [line.to(torch.uint8).argmax(dim=1) for line in lines]
    lasts = [line.shape[1] - 1 - line.flip(1).to(torch.uint8).argmax(dim=1) for line in lines]
    corners = torch.stack([*firsts, *lasts], dim=1).tolist()
    return [corner if found else None for corner, found in zip(corners, lines[0].any(dim=1).tolist(), strict=True)]
