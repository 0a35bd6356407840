# SPDX-License-Identifier: Apache-2.0
"""Prompts of a volume turned into prompts of its upright slices, and slices grouped into forward passes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monai.data import MetaTensor
from torch import Tensor

from monai_ext.data.slices import check_plane

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SlicePrompt:
    """What a user asked on one upright slice: points (x, y) with labels 1 or 0, and a box (x0, y0, x1, y1)."""

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None

    @property
    def corrects(self) -> bool:
        """Whether it only says where the object is not; what it is, the network has to find by itself."""
        return bool(self.points) and self.box is None and not any(self.labels)


@dataclass(frozen=True)
class Request:
    """What a user asked: prompts by slice, and the one slice that is wanted, if the request names one."""

    prompts: Mapping[int, SlicePrompt]
    only: int | None = None


@dataclass(frozen=True)
class Pass:
    """Slices that go through the network together.

    Attributes:
        indices: of the slices.
        kind: ``self``, ``null``, ``given`` (points, or a slice whose embedding is kept) or ``corrected`` (a slice with
            nothing but points beside the object).
    """

    indices: list[int]
    kind: str


def texts_of(inputs: Tensor, key: str) -> list[str]:
    """Return a text of the metadata for each image of a batch, empty where there is none."""
    value = inputs.meta.get(key) if isinstance(inputs, MetaTensor) else None
    if isinstance(value, list | tuple) and len(value) == len(inputs):
        return [text if isinstance(text, str) else "" for text in value]
    return [value if isinstance(value, str) else ""] * len(inputs)


def read_request(text: str, shape: Sequence[int], plane: str) -> Request:
    """Read what `PromptFromRequestd` wrote for an image of ``shape`` (X, Y[, Z])."""
    if not text:
        return Request({})
    content = json.loads(text)
    points: dict[int, list[tuple[tuple[float, float], int]]] = {}
    for point, label in zip(content["points"], content["labels"], strict=True):
        index, x, y = _upright(point, shape, plane)
        points.setdefault(index, []).append(((x, y), label))
    boxes: dict[int, Box] = {}
    if content["box"] is not None:
        first, second = (_upright(corner, shape, plane) for corner in content["box"])
        box = _box(first[1:], second[1:])
        boxes = dict.fromkeys(range(min(first[0], second[0]), max(first[0], second[0]) + 1), box)
    prompts = {
        index: SlicePrompt(
            points=tuple(point for point, _ in points.get(index, [])),
            labels=tuple(label for _, label in points.get(index, [])),
            box=boxes.get(index),
        )
        for index in sorted({*points, *boxes})
    }
    stack = content["slice"]
    across = len(shape) == 3 and stack is not None and stack[0] == check_plane(plane)
    return Request(prompts, stack[1] if across else None)


def read_true_boxes(text: str, shape: Sequence[int], plane: str) -> list[Box | None]:
    """Read what `TrueBoxd` wrote: a box, or none, for each upright slice."""
    if not text:
        raise ValueError(
            'prompt_source "truth" takes the boxes of the labels: put monai_ext.transforms.TrueBoxd last in the '
            'preprocessing, or, without labels, set prompt_source to "self".'
        )
    axis = check_plane(plane) if len(shape) == 3 else 0
    return [None if box is None else _turned(box, axis, shape, plane) for box in json.loads(text)[axis]]


def plan_passes(
    wanted: Sequence[int], prompts: Mapping[int, SlicePrompt], source: str, batch_size: int, alone: bool
) -> list[Pass]:
    """Group slices that one forward pass can take; those with prompts go ``alone`` if their embeddings are kept.

    Points are never filled up to the same number, since a filler changes what the decoder gives; a box by itself
    fits among slices without any, unless these are to show their first mask.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in wanted:
        prompt = prompts.get(index)
        group: tuple[object, ...]
        if prompt is None:
            group = (source,)
        elif prompt.corrects or alone:
            group = ("corrected" if prompt.corrects else "given", index)
        elif prompt.points:
            group = ("given", len(prompt.points), prompt.box is not None)
        else:
            group = ("self",)
        groups.setdefault(group, []).append(index)
    return [
        Pass(indices[start : start + batch_size], str(group[0]))
        for group, indices in groups.items()
        for start in range(0, len(indices), batch_size)
    ]


def _upright(point: Sequence[float], shape: Sequence[int], plane: str) -> tuple[int, float, float]:
    """Return a voxel's slice, column and row; the same turn as `monai_ext.data.slices.upright` gives the slices."""
    if len(shape) == 2:
        return 0, point[0], point[1]
    axis = check_plane(plane)
    across, down = (other for other in range(3) if other != axis)
    index = min(max(round(point[axis]), 0), shape[axis] - 1)
    return index, shape[across] - 1 - point[across], shape[down] - 1 - point[down]


def _turned(box: Sequence[int], axis: int, shape: Sequence[int], plane: str) -> Box:
    if len(shape) == 2:
        return _box(box[:2], box[2:])
    corners = [[*corner[:axis], 0, *corner[axis:]] for corner in (box[:2], box[2:])]
    return _box(*(_upright(corner, shape, plane)[1:] for corner in corners))


def _box(first: Sequence[float], second: Sequence[float]) -> Box:
    (x0, x1), (y0, y1) = sorted((first[0], second[0])), sorted((first[1], second[1]))
    return float(x0), float(y0), float(x1), float(y1)
