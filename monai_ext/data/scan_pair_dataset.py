# SPDX-License-Identifier: Apache-2.0
"""Whole pairs of scans with their points, for evaluation and inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from torch import Tensor

from monai_ext.data.pair_prefixes import pair_prefixes
from monai_ext.data.point_file import read_point_pairs, read_points
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError, find_input_error

CORNERS = ("box_low", "box_high")


class ScanPairDataset(Dataset):
    """One item per pair: the moving scan ``image``, the fixed scan ``reference``, and points.

    An item gets ``points`` (N, 3), RAS mm in the fixed scan, ``point_names``, ``point_list`` (the same with its further
    columns) and, where the file knows them, ``truth``
    (N, 3) in the moving scan, ``radius`` (N,) in mm (columns ``radius_mm`` or ``diameter_mm``) and ``boxes`` (N, 2, 3),
    corners in RAS mm of the moving scan (columns ``box_low_x_ras_mm``, ..., ``box_high_z_ras_mm``). A table with places
    in both scans has columns that begin with ``fixed_`` and ``moving_``, or ``baseline_`` and ``followup_``; or the
    item names a second file ``truth`` with the same names.

    Args:
        data: items as `load_pair_list` gives them.
        transform: of one scan, ``{"image": path, ...}``, without anything random; each of both goes through it.
        simulate: makes a pair of an item that has no ``reference``, see `monai_ext.transforms.SimulatedPaird`.
        space: ``RAS`` or ``LPS``, of files of points that do not state it.

    Raises:
        InputError: by an item whose files are missing, broken or do not fit together.

    Example:
        >>> ScanPairDataset([{"image": "a"}], simulate=lambda item: {**item, "reference": item["image"]})[0]
        {'image': 'a', 'reference': 'a'}
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable | None = None,
        simulate: Callable | None = None,
        space: str | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.simulate = simulate
        self.space = space

    def _transform(self, index: int) -> Any:
        item = dict(self.data[index])
        try:
            if isinstance(item.get("points"), str):
                item.update(_points_of(item, self.space))
            scans = {key: self._scan(item, key) for key in ("image", "reference") if key in item}
            item = {**item, **scans}
            return item if self.simulate is None or "reference" in item else self.simulate(item)
        except Exception as error:
            raise find_input_error(error) or error from None

    def _scan(self, item: dict[str, Any], key: str) -> Any:
        return item[key] if self.transform is None else self.transform({**item, "image": item[key]})["image"]


def _points_of(item: dict[str, Any], space: str | None) -> dict[str, Any]:
    path = Path(item["points"])
    prefixes = pair_prefixes(path)
    if prefixes is not None:
        fixed, moving = read_point_pairs(path, *prefixes, space=space)
        return _entries(fixed, moving)
    fixed = read_points(path, space)
    return _entries(fixed, _in_order(read_points(item["truth"], space), fixed) if item.get("truth") else None)


def _in_order(points: PointList, wanted: PointList) -> PointList:
    """Return points in the order of the others."""
    place = {name: index for index, name in enumerate(points.names)}
    missing = [name for name in wanted.names if name not in place]
    if missing:
        raise InputError(f"{points.path}: no point {missing[0]!r}, which {wanted.path} has; name points alike in both.")
    order = [place[name] for name in wanted.names]
    extra = {name: tuple(column[index] for index in order) for name, column in points.extra.items()}
    return PointList(wanted.names, points.points[order], extra, points.path)


def _entries(fixed: PointList, moving: PointList | None) -> dict[str, Any]:
    found: dict[str, Any] = {"points": fixed.points, "point_names": list(fixed.names), "point_list": fixed}
    if moving is not None:
        found["truth"] = moving.points
    source = fixed if moving is None else moving
    for name, factor in (("radius_mm", 1.0), ("diameter_mm", 0.5)):
        if name in source.extra and "radius" not in found:
            found["radius"] = source.numbers(name) * factor
    boxes = _boxes_of(source)
    return found if boxes is None else {**found, "boxes": boxes}


def _boxes_of(points: PointList) -> Tensor | None:
    columns = [[f"{corner}_{axis}_ras_mm" for axis in "xyz"] for corner in CORNERS]
    if any(name not in points.extra for corner in columns for name in corner):
        return None
    corners = [torch.stack([points.numbers(name) for name in corner], dim=1) for corner in columns]
    return torch.stack(corners, dim=1)
