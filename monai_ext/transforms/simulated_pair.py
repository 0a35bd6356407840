# SPDX-License-Identifier: Apache-2.0
"""A scan and a moved copy of it, with points whose places are known in both."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.transforms._simulated import (
    Array,
    affine_of,
    altered,
    check_gamma,
    draw_places,
    moved_by,
    plane_of,
    pulled,
)
from monai_ext.transforms.prepare_label import name_of


class SimulatedPaird(Transform):
    """Make a pair for validation without labels: the scan, a copy moved by a random affine, and exact points.

    The copy is turned, scaled and shifted about the middle of the scan, and gets another contrast and noise. Every
    point lies in the body at both times. All is drawn from the seed and the name of the case, so that each validation
    and each process sees the same. Items that have a ``reference`` already are left alone.

    Args:
        points: how many places are drawn; fewer where the body has fewer voxels.
        max_degrees: largest turn about each axis.
        max_scale: largest change of size, as a part of it: 0.1 is 10 % larger or smaller.
        max_shift_mm: largest shift along each axis; a quarter of the scan's shortest side where that is less.
        gamma: smallest and largest power of the copy's intensities, which are taken as 0 to 1.
        noise: standard deviation of the copy's noise.
        body_threshold: the body is where the scan is above this; 0 in most cases of scans scaled to 0..1.
        seed: of all that is drawn.
        image_key: of the scan, (1, *axes), 3-D; the copy takes its place.
        case_key: of the name of the case.

    Returns:
        The item with ``reference`` (the scan as it was, the fixed one), the moved copy under ``image_key`` on the same
        voxels, ``points`` (N, 3) and ``truth`` (N, 3), RAS mm in the fixed and in the moved scan, and ``point_names``.

    Raises:
        ValueError: an argument is out of its range.
        InputError: a scan without any body.

    Example:
        >>> pair = SimulatedPaird(points=5)({"image": torch.rand(1, 8, 16, 16), "case": "a"})
        >>> pair["image"].shape == pair["reference"].shape, pair["points"].shape, pair["truth"].shape
        (True, torch.Size([5, 3]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        points: int = 100,
        max_degrees: float = 10.0,
        max_scale: float = 0.1,
        max_shift_mm: float = 10.0,
        gamma: tuple[float, float] = (0.8, 1.25),
        noise: float = 0.01,
        body_threshold: float = 0.0,
        seed: int = 0,
        image_key: str = "image",
        case_key: str = "case",
    ) -> None:
        if points < 1:
            raise ValueError(f"points must be at least 1, got {points}.")
        ranges = {"max_degrees": max_degrees, "max_shift_mm": max_shift_mm, "noise": noise}
        if wrong := {name: value for name, value in ranges.items() if value < 0}:
            raise ValueError(f"{', '.join(wrong)} must be at least 0, got {', '.join(map(str, wrong.values()))}.")
        if not 0 <= max_scale < 1:
            raise ValueError(f"max_scale must be in [0, 1), got {max_scale}.")
        self.points = points
        self.max_degrees = max_degrees
        self.max_scale = max_scale
        self.max_shift_mm = max_shift_mm
        self.gamma = check_gamma(gamma)
        self.noise = noise
        self.body_threshold = body_threshold
        self.seed = seed
        self.image_key = image_key
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        if "reference" in result:
            return result
        scan: Tensor = result[self.image_key]
        if scan.ndim != 4:
            raise InputError(f"{name_of(scan)}: pairs are simulated of volumes (C, D, H, W), got {tuple(scan.shape)}.")
        draw = np.random.default_rng([self.seed, _number(str(result.get(self.case_key, name_of(scan))))])
        world = affine_of(scan)
        shape = np.asarray(scan.shape[1:])
        centre = (world @ [*(shape - 1) / 2, 1.0])[:3]
        shift = min(self.max_shift_mm, float((np.linalg.norm(world[:3, :3], axis=0) * shape).min()) / 4)
        moved = self._movement(draw, centre, shift)  # fixed RAS mm -> moving RAS mm
        voxels = np.linalg.solve(world, moved @ world)  # fixed voxels -> moving voxels, both on one grid
        first = draw_places(draw, scan, plane_of(voxels, scan.shape[1:]), self.points, self.body_threshold)
        copy = pulled(scan, plane_of(np.linalg.inv(voxels), scan.shape[1:]))
        copy = altered(draw, copy, self.gamma, self.noise)
        result["reference"] = scan
        result[self.image_key] = copy
        result["points"] = torch.from_numpy(moved_by(world, first))
        result["truth"] = torch.from_numpy(moved_by(moved @ world, first))
        result["point_names"] = [str(number) for number in range(1, len(first) + 1)]
        return result

    def _movement(self, draw: np.random.Generator, centre: Array, max_shift: float) -> Array:
        angles = np.radians(draw.uniform(-self.max_degrees, self.max_degrees, 3))
        matrix = np.eye(4)
        for (a, b), angle in zip([(1, 2), (0, 2), (0, 1)], angles, strict=True):
            turn = np.eye(4)
            turn[a, a] = turn[b, b] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
        matrix[:3, :3] *= 1 + draw.uniform(-self.max_scale, self.max_scale)
        shift = draw.uniform(-max_shift, max_shift, 3)
        matrix[:3, 3] = centre + shift - matrix[:3, :3] @ centre
        return matrix


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
