# SPDX-License-Identifier: Apache-2.0
"""Matched points as a label map in the image's own grid, and as numbers for the client."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_ext.match_request import MatchRequest, read_match_request
from monai_ext.spaces import to_space

RESULT = "result"  # what MONAI Label sends beside the label map
DRAWN = ("accepted", "all")


class _Grid(NamedTuple):
    """The image file's own voxels."""

    shape: tuple[int, ...]
    affine: Tensor


class PointsToLabeld(MapTransform):
    """Turn the matched points of a client's request into what MONAI Label sends back.

    - The label map (1, X, Y, Z) has the grid of the image's file, and a ball around each matched point: value 1 for the
      first point of the request, 2 for the second, and so on. Where balls meet, the nearest point's value counts.
      Whatever its radius a ball has one voxel at least, unless its point lies outside of the image.
    - ``result`` has ``points``, one entry each: ``name``, ``value``, ``place`` (mm), ``voxel`` (index in the file, with
      fractions), ``score``, ``local_score``, ``global_score``, ``cycle_error_mm``, ``accepted``, ``drawn``,
      ``fallback``, ``anchors``, ``reason``; and ``space``, ``unit``, ``reference`` and ``radius_mm``.

    Results that belong to no request stay as they are.

    Args:
        keys: of the matches.
        image_key: of the moving image, which carries the request.
        radius_mm: of the balls.
        drawn: ``accepted``, or ``all``: balls of points whose match was not accepted, too.
        allow_missing_keys: leave items without matches alone.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> PointsToLabeld(keys=["pred"])({"image": torch.zeros(1, 2, 2, 2), "pred": "no request"})["pred"]
        'no request'
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        radius_mm: float = 5.0,
        drawn: str = "accepted",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if radius_mm < 0:
            raise ValueError(f"radius_mm must not be negative, got {radius_mm}.")
        if drawn not in DRAWN:
            raise ValueError(f"drawn must be one of {', '.join(DRAWN)}, got {drawn!r}.")
        self.image_key = image_key
        self.radius_mm = radius_mm
        self.drawn = drawn

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        image = result.get(self.image_key)
        request = read_match_request(image)
        if request is None or not isinstance(image, MetaTensor):
            return result
        grid = _Grid(
            tuple(int(side) for side in image.meta["source_shape"]),
            torch.as_tensor(image.meta["source_affine"], dtype=torch.float64),
        )
        for key in self.key_iterator(result):
            matched = result[key]
            shown = matched.accepted if self.drawn == "accepted" else torch.ones_like(matched.accepted)
            result[key] = _label_map(matched.points, shown, grid, self.radius_mm)
            result[RESULT] = {
                **result.get(RESULT, {}),
                "points": _entries(request, matched, shown, grid),
                "space": request.space,
                "unit": "mm",
                "reference": request.name,
                "radius_mm": self.radius_mm,
            }
        return result


def _label_map(points: Tensor, shown: Tensor, grid: _Grid, radius: float) -> MetaTensor:
    values = torch.uint8 if len(points) < 256 else torch.int32
    label = torch.zeros(math.prod(grid.shape), dtype=values)
    chosen = shown.nonzero()[:, 0].tolist()
    if chosen:
        voxels, distances = zip(*(_ball(points[index], grid, radius) for index in chosen), strict=True)
        owners = torch.cat([torch.full_like(some, index + 1) for some, index in zip(voxels, chosen, strict=True)])
        order = torch.cat(distances).argsort(stable=True)  # the nearest first
        numbers, first = np.unique(torch.cat(voxels)[order].numpy(), return_index=True)
        label[torch.from_numpy(numbers)] = owners[order][torch.from_numpy(first)].to(values)
    return MetaTensor(label.reshape(1, *grid.shape), affine=grid.affine)


def _ball(point: Tensor, grid: _Grid, radius: float) -> tuple[Tensor, Tensor]:
    """Return the numbers of the voxels whose middles lie in a ball (the nearest one always), and their distances."""
    inverse = torch.linalg.inv(grid.affine)
    centre = point.double() @ inverse[:3, :3].T + inverse[:3, 3]
    reach = radius * inverse[:3, :3].norm(dim=1)  # of a ball along each axis of voxels
    nearest = centre.round()
    low = torch.minimum((centre - reach).ceil(), nearest).clamp(min=0)
    high = torch.minimum(torch.maximum((centre + reach).floor(), nearest), torch.tensor(grid.shape).double() - 1)
    ranges = [range(int(first), int(last) + 1) for first, last in zip(low.tolist(), high.tolist(), strict=True)]
    voxels = torch.tensor(list(product(*ranges)), dtype=torch.float64).reshape(-1, 3)
    distance = ((voxels - centre) @ grid.affine[:3, :3].T).norm(dim=1)
    inside = (distance <= radius) | (voxels == nearest).all(dim=1)
    steps = torch.tensor([grid.shape[1] * grid.shape[2], grid.shape[2], 1])
    return (voxels[inside].long() * steps).sum(dim=1), distance[inside]


def _entries(request: MatchRequest, matched: Any, shown: Tensor, grid: _Grid) -> list[dict[str, Any]]:
    """Return what is known of each point, as plain numbers and texts."""
    inverse = torch.linalg.inv(grid.affine)
    voxels = (matched.points.double() @ inverse[:3, :3].T + inverse[:3, 3]).tolist()
    places = to_space(matched.points.double(), request.space).tolist()
    return [
        {
            "name": name,
            "value": index + 1,
            "place": [round(value, 4) for value in places[index]],
            "voxel": [round(value, 3) for value in voxels[index]],
            "score": round(float(matched.score[index]), 4),
            "local_score": round(float(matched.local_score[index]), 4),
            "global_score": round(float(matched.global_score[index]), 4),
            "cycle_error_mm": round(float(matched.cycle_error[index]), 3),
            "accepted": bool(matched.accepted[index]),
            "drawn": bool(shown[index]),
            "fallback": bool(matched.fallback[index]),
            "anchors": int(matched.anchors[index]),
            "reason": matched.reasons[index],
        }
        for index, name in enumerate(request.names)
    ]
