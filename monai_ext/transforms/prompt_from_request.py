# SPDX-License-Identifier: Apache-2.0
"""Clicks and boxes of a request, brought into the grid that the network's inferer sees."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.prompts import USER_PROMPTS, with_meta
from monai_ext.transforms.prepare_label import name_of

CLICKS = {"foreground": 1, "background": 0}
PROMPT_KEYS = (*CLICKS, "points", "point_labels", "roi", "box")
Array = NDArray[np.float64]


class PromptFromRequestd(MapTransform):
    """Put a user's clicks and boxes into the image's metadata, where `PromptedSliceInferer` finds them.

    MONAI Label hands a client's request to the preprocessing as the item itself, and data lists may carry the same
    keys. All are voxel indices of the image file, as Slicer and OHIF send them; put this transform last, when
    nothing moves voxels any more. Without prompts the item stays as it is.

    - ``foreground``, ``background``: clicks [[i, j, k], ...] on the object and beside it ([[x, y], ...] in pictures);
    - ``points`` with ``point_labels``: the same in one list, 1 for the object, 0 for background, -1 for nothing;
    - ``box`` or ``roi``: [i0, i1, j0, j1, k0, k1] of a volume, both ends included, in any order, cut at the border;
      [x0, y0, x1, y1] of a picture, or of the volume's slice named by ``slice``;
    - ``slice``: index k of the slice that the client will take from the result (2-D editing in Slicer and OHIF).

    The keys are taken out of the item, so that clicks of different numbers do not keep items from being batched.

    Args:
        keys: of the image.
        allow_missing_keys: leave items without an image alone.

    Raises:
        InputError: for a click outside of the image or of another form.

    Example:
        >>> import torch
        >>> item = {"image": MetaTensor(torch.zeros(1, 9, 8)), "foreground": [[3, 4]], "background": []}
        >>> PromptFromRequestd(keys=["image"])(item)["image"].meta["user_prompts"]
        '{"points": [[3.0, 4.0]], "labels": [1], "box": null, "slice": null}'
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        request = {name: data[name] for name in (*PROMPT_KEYS, "slice") if not _is_empty(data.get(name))}
        asked = any(name in request for name in PROMPT_KEYS)
        dropped = {*PROMPT_KEYS, "slice"} if any(name in data for name in PROMPT_KEYS) else set()
        result = {name: value for name, value in data.items() if name not in dropped}
        for key in self.key_iterator(result):
            text = json.dumps(_Grid(result[key]).read(request)) if asked else ""
            # without prompts too: MONAI's batches keep only the entries that all their images have
            result[key] = with_meta(result[key], {USER_PROMPTS: text})
        return result


class _Grid:
    """The grid of the file, in which a request counts, and the way from there into the image's present grid."""

    def __init__(self, image: Tensor) -> None:
        meta = image.meta if isinstance(image, MetaTensor) else {}
        self.dims = image.ndim - 1
        self.name = name_of(image)
        self.shape = [int(size) for size in meta.get("source_shape", image.shape[1:])]
        present = image.affine.cpu().numpy().astype(np.float64) if isinstance(image, MetaTensor) else np.eye(4)
        # a picture has no place in space: `LoadScand` gave it an identity affine, whatever its file says
        source = meta.get("source_affine", present) if self.dims == 3 else np.eye(4)
        self.matrix = np.linalg.inv(present) @ np.asarray(source, dtype=np.float64)  # file's voxels -> present voxels

    def read(self, request: Mapping[str, Any]) -> dict[str, Any]:
        plane = self._slice(request.get("slice"))
        points, labels = self._clicks(request)
        box = self._box(request, plane)
        return {
            "points": self._move(points).tolist(),
            "labels": labels,
            "box": None if box is None else _sorted_corners(self._move(box)).tolist(),
            "slice": None if plane is None else self._stack_place(plane),
        }

    def _clicks(self, request: Mapping[str, Any]) -> tuple[Array, list[int]]:
        points = np.zeros((0, self.dims))
        labels: list[int] = []
        for name, label in CLICKS.items():
            found = self._points(name, request.get(name, []))
            points, labels = np.concatenate([points, found]), [*labels, *[label] * len(found)]
        found = self._points("points", request.get("points", []))
        given = self._point_labels(request.get("point_labels", []), len(found))
        used = [index for index, label in enumerate(given) if label >= 0]
        return np.concatenate([points, found[used]]), [*labels, *[given[index] for index in used]]

    def _points(self, name: str, value: object) -> Array:
        example = "[[i, j, k], ...]" if self.dims == 3 else "[[x, y], ...]"
        points = self._numbers(name, value, example)
        if points.size == 0:
            return np.zeros((0, self.dims))
        if points.ndim == 2 and self.dims == 2 and points.shape[1] == 3 and not points[:, 2].any():
            points = points[:, :2]  # clients that show a picture as a volume of one slice
        if points.ndim != 2 or points.shape[1] != self.dims:
            raise InputError(f"{self.name}: {name} is {value}, wanted {example}, voxel indices of the image file.")
        for point in points:
            if (point <= -0.5).any() or (point >= np.array(self.shape) - 0.5).any():
                raise InputError(
                    f"{self.name}: {name} {_short(point)} lies outside of the image's {_sizes(self.shape)} voxels; "
                    "clicks are voxel indices of the image file, counted from 0."
                )
        return points

    def _point_labels(self, value: object, count: int) -> list[int]:
        labels = self._numbers("point_labels", value, "[1, 0, ...]").reshape(-1)
        if len(labels) != count or not np.isin(labels, (-1, 0, 1)).all():
            raise InputError(
                f"{self.name}: point_labels is {value} for {count} points; give each point 1 (object), 0 (background) "
                "or -1 (nothing)."
            )
        return [int(label) for label in labels]

    def _box(self, request: Mapping[str, Any], plane: int | None) -> Array | None:
        """Return the box's corners (2, dims), whole voxels of the file, or None."""
        given = [name for name in ("box", "roi") if name in request]
        if not given:
            return None
        name, value = given[0], request[given[0]]
        example = "[i0, i1, j0, j1, k0, k1]" if self.dims == 3 else "[x0, y0, x1, y1]"
        numbers = self._numbers(name, value, example)
        if numbers.shape == (6,):
            corners = numbers.reshape(3, 2).T[:, : self.dims]
        elif numbers.shape == (4,) and (self.dims == 2 or plane is not None):
            corners = numbers.reshape(2, 2)
            corners = corners if self.dims == 2 else np.column_stack([corners, [float(plane or 0)] * 2])
        else:
            raise InputError(
                f"{self.name}: {name} is {value}, wanted {example}, voxel indices of the image file"
                f"{', or [x0, y0, x1, y1] with a slice' if self.dims == 3 else ''}."
            )
        corners, last = _sorted_corners(corners), np.array(self.shape) - 1
        if (corners[1] < 0).any() or (corners[0] > last).any():
            raise InputError(
                f"{self.name}: {name} {_short(numbers)} lies outside of the image's {_sizes(self.shape)} voxels; "
                f"give {example}, voxel indices of the image file, counted from 0."
            )
        return np.clip(corners, 0, last)

    def _slice(self, value: object) -> int | None:
        if value is None or self.dims == 2:
            return None
        number = self._numbers("slice", value, "the index of a slice")
        if number.size != 1 or number.item() != round(number.item()) or number.item() >= self.shape[2]:
            raise InputError(f"{self.name}: slice is {value}, wanted 0 to {self.shape[2] - 1}, counted along k.")
        return int(number.item()) if number.item() >= 0 else None  # some clients send -1 for none

    def _stack_place(self, plane: int) -> list[int]:
        """Return the axis of the present grid along which the file's slices lie, and the slice's index there."""
        axis = int(np.abs(self.matrix[:3, 2]).argmax())
        middle = np.array([[(size - 1) / 2 for size in self.shape[:2]] + [plane]])
        return [axis, round(float(self._move(middle)[0, axis]))]

    def _move(self, points: Array) -> Array:
        homogeneous = np.zeros((len(points), 4))
        homogeneous[:, : self.dims], homogeneous[:, 3] = points, 1
        moved = (homogeneous @ self.matrix.T)[:, : self.dims]
        return np.round(moved, 4) + 0.0  # affines are known to some digits only; + 0.0 makes -0.0 a plain zero

    def _numbers(self, name: str, value: object, example: str) -> Array:
        try:
            numbers = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.array([np.nan])
        if not np.isfinite(numbers).all():
            raise InputError(f"{self.name}: {name} is {value}, wanted numbers: {example}.")
        return numbers


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, Sized) and len(value) == 0)


def _sorted_corners(corners: Array) -> Array:
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def _short(numbers: Array) -> str:
    return "[" + ", ".join(f"{number:g}" for number in numbers) + "]"


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)
