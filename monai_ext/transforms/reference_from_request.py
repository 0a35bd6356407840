# SPDX-License-Identifier: Apache-2.0
"""The second scan of a client's request, and the points in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.match_request import MATCH_REQUEST, MatchRequest
from monai_ext.scan_files import list_scans, stem_of
from monai_ext.spaces import check_space, to_space

FROM_SERVER = "image_path"  # MONAI Label puts it into every request
UNITS = ("mm", "voxel")
Transform = Callable[[dict[Hashable, Any]], Mapping[Hashable, Any]]


class ReferenceFromRequestd(MapTransform):
    """Put the fixed scan and the points of a client's request into the moving image's metadata.

    MONAI Label hands a request to the preprocessing as the item itself. Items that come from elsewhere stay as they
    are. Put this transform last. The request has

    - ``image``: the moving scan, in which to look;
    - ``reference``: the fixed scan, by its id or file name among the scans beside the image; never a path;
    - ``points``: [[x, y, z], ...] in the fixed scan;
    - ``points_unit``: ``mm`` (default), or ``voxel`` for indices [[i, j, k], ...] of the fixed scan's file;
    - ``space``: ``RAS`` (default) or ``LPS``, of points in mm, both in the request and in the answer;
    - ``point_names``: as many texts, for the answer.

    Args:
        keys: of the image.
        transform: preprocessing of one scan, which the fixed one goes through as the image did.
        allow_missing_keys: leave items without an image alone.

    Raises:
        InputError: by a request that is not as above.

    Example:
        >>> ReferenceFromRequestd(keys=["image"], transform=dict)({"image": "no request"})
        {'image': 'no request'}
    """

    def __init__(self, keys: KeysCollection, transform: Transform, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        if FROM_SERVER not in data:
            return result
        for key in self.key_iterator(result):
            image = result[key]
            scan = _beside(Path(str(image.meta["filename_or_obj"])), data.get("reference"))
            reference = self.transform({"image": str(scan)})["image"]
            copy = MetaTensor(image.as_tensor()).copy_meta_from(image)
            copy.meta = {**image.meta, MATCH_REQUEST: _request(data, scan.name, reference)}
            result[key] = copy
        return result


def _beside(image: Path, reference: object) -> Path:
    """Return the scan of this id or file name in the image's folder: only what is listed there can be meant."""
    if not isinstance(reference, str) or not reference:
        raise InputError(
            f"{image.name}: a request must name the fixed scan as 'reference', by the id of a scan beside this one, "
            f"got {reference!r}."
        )
    scans = list_scans(image.parent)
    named = [scan for scan in scans if scan.name == reference] or [scan for scan in scans if stem_of(scan) == reference]
    if not named:
        raise InputError(
            f"{image.name}: there is no scan {reference!r} beside it; 'reference' is an id or a file name, no path."
        )
    if len(named) > 1:
        names = ", ".join(scan.name for scan in named)
        raise InputError(f"{image.name}: reference {reference!r} may be any of {names}; give the file name.")
    return named[0]


def _request(data: Mapping[Hashable, Any], name: str, reference: MetaTensor) -> MatchRequest:
    points = _numbers(data.get("points"), name)
    unit = data.get("points_unit", UNITS[0])
    space = check_space(data.get("space", "RAS"))
    if unit not in UNITS:
        raise InputError(f"{name}: points_unit must be one of {', '.join(UNITS)}, got {unit!r}.")
    if unit == "voxel":
        affine = torch.as_tensor(reference.meta["source_affine"], dtype=torch.float64)
        world = points @ affine[:3, :3].T + affine[:3, 3]
    else:
        world = to_space(points, space)
    names = data.get("point_names") or [str(number) for number in range(1, len(points) + 1)]
    if not isinstance(names, (list, tuple)) or len(names) != len(points):
        raise InputError(f"{name}: point_names must be {len(points)} texts, one for each point, got {names!r}.")
    return MatchRequest(name, reference, world, tuple(str(text) for text in names), space)


def _numbers(value: object, name: str) -> Tensor:
    """Return points (N, 3) as the request has them."""
    try:
        points = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        points = torch.zeros(0)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not bool(points.isfinite().all()):
        raise InputError(f"{name}: points is {value!r}, wanted [[x, y, z], ...], finite numbers, one point at least.")
    return points
