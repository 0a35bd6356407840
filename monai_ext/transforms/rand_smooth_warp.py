# SPDX-License-Identifier: Apache-2.0
"""A second scan made of one by a random, smooth and known map, to learn registration from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import ensure_tuple
from scipy.spatial.transform import Rotation
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.map_on_grid import MapOnGrid, unfolded_on
from monai_ext.smooth_map import SmoothMap
from monai_ext.transforms._simulated import (
    Array,
    Plane,
    affine_of,
    altered,
    check_gamma,
    draw_places,
    moved_by,
    pulled,
)
from monai_ext.transforms.prepare_label import name_of

REFERENCE = "reference"
LEAST_DETERMINANT = 0.3  # of the warp: nothing shrinks to less of its volume
LATTICE = 4  # places within a bump's width at which folding is looked for


class RandSmoothWarpd(Randomizable, MapTransform):
    """Make a pair of one scan: the scan stays the moving one, and a warped copy of it becomes the fixed one.

    The map leads from the fixed copy's RAS mm to the scan's, as a registration does: turn, scale and shift about the
    middle of the scan, plus a sum of Gaussian bumps (`monai_ext.smooth_map.SmoothMap`). Copy, labels and points are all
    made by evaluating the same formula, so no inverse is approximated anywhere. Bumps are weakened until nothing folds.

    Args:
        keys: of the scan, (1, X, Y, Z); a single one.
        label_keys: of its labels, on the same voxels; none or one, which may be missing in an item.
        degrees: largest turn about each axis.
        scale: largest change of size along each axis, as a part of it.
        shift_mm: largest shift along each axis.
        warp_mm: largest displacement of a bump.
        warp_width_mm: smallest and largest standard deviation of a bump.
        bumps: how many there are; they overlap, and their displacements are added.
        points: how many places are drawn; fewer where the body has fewer voxels.
        body_threshold: the body is where the scan is above this.
        gamma: smallest and largest power of the copy's intensities, which are taken as 0 to 1.
        noise: standard deviation of the copy's noise.

    Returns:
        The item with ``reference``, the copy, on the scan's voxels; ``mapping``, the map; ``points`` (N, 3) and
        ``truth`` (N, 3), RAS mm in the copy and in the scan, with ``point_names``; where there are labels,
        ``image_label`` and ``reference_label`` instead of them.

    Raises:
        ValueError: an argument is out of its range.
        InputError: a picture, labels of another size, or a scan without any body.

    Example:
        >>> warp = RandSmoothWarpd(points=5, degrees=5.0, shift_mm=1.0).set_random_state(0)
        >>> pair = warp({"image": torch.rand(1, 16, 16, 16), "label": torch.ones(1, 16, 16, 16)})
        >>> sorted(pair)
        ['image', 'image_label', 'mapping', 'point_names', 'points', 'reference', 'reference_label', 'truth']
    """

    def __init__(
        self,
        keys: KeysCollection = ("image",),
        label_keys: KeysCollection = ("label",),
        degrees: float = 8.0,
        scale: float = 0.05,
        shift_mm: float = 6.0,
        warp_mm: float = 4.0,
        warp_width_mm: tuple[float, float] = (20.0, 35.0),
        bumps: int = 20,
        points: int = 100,
        body_threshold: float = 0.0,
        gamma: tuple[float, float] = (1.0, 1.0),
        noise: float = 0.0,
    ) -> None:
        super().__init__(keys)
        self.label_keys = ensure_tuple(label_keys)
        if len(self.keys) != 1 or len(self.label_keys) > 1:
            raise ValueError(f"there must be one key and one label key at most, got {self.keys} and {self.label_keys}.")
        sizes = {"degrees": degrees, "shift_mm": shift_mm, "warp_mm": warp_mm, "bumps": bumps, "noise": noise}
        if wrong := {name: value for name, value in sizes.items() if value < 0}:
            raise ValueError(f"{', '.join(wrong)} must be at least 0, got {', '.join(map(str, wrong.values()))}.")
        if not 0 <= scale < 1:
            raise ValueError(f"scale must be in [0, 1), got {scale}.")
        if not 0 < warp_width_mm[0] <= warp_width_mm[1]:
            raise ValueError(f"warp_width_mm must be two positive, rising numbers, got {tuple(warp_width_mm)}.")
        if points < 1:
            raise ValueError(f"points must be at least 1, got {points}.")
        self.degrees = degrees
        self.scale = scale
        self.shift_mm = shift_mm
        self.warp_mm = warp_mm
        self.warp_width_mm = (warp_width_mm[0], warp_width_mm[1])
        self.bumps = bumps
        self.points = points
        self.body_threshold = body_threshold
        self.gamma = check_gamma(gamma)
        self.noise = noise
        self.mapping = SmoothMap(np.eye(3), np.zeros(3), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))

    def randomize(self, scan: Tensor) -> None:
        """Draw the map, ``mapping``, for a scan of this affine and shape."""
        world, shape = affine_of(scan), tuple(scan.shape[1:])
        centre = moved_by(world, (np.asarray(shape)[None] - 1) / 2)[0]
        turn = Rotation.from_euler("xyz", self.R.uniform(-self.degrees, self.degrees, 3), degrees=True).as_matrix()
        matrix = turn * (1 + self.R.uniform(-self.scale, self.scale, 3))
        offset = centre + self.R.uniform(-self.shift_mm, self.shift_mm, 3) - matrix @ centre
        centres = moved_by(world, self.R.uniform(-0.5, np.asarray(shape) - 0.5, (self.bumps, 3)))
        vectors = self.R.standard_normal((self.bumps, 3))
        vectors *= self.R.uniform(0, self.warp_mm, (self.bumps, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
        widths = self.R.uniform(*self.warp_width_mm, self.bumps)
        drawn = SmoothMap(matrix, offset, centres, vectors, widths)
        lattice = _lattice(world, shape, self.warp_width_mm[0] / LATTICE)
        self.mapping = unfolded_on(drawn, *lattice, LEAST_DETERMINANT * float(np.linalg.det(matrix)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        scan: Tensor = result[self.keys[0]]
        if scan.ndim != 4:
            raise InputError(f"{name_of(scan)}: pairs are simulated of volumes (C, D, H, W), got {tuple(scan.shape)}.")
        self.randomize(scan)
        world = affine_of(scan)
        plane = _through(MapOnGrid(self.mapping, world, scan.shape[1:]))
        copy = pulled(scan, plane, padding_value=float(scan.min()))
        places = draw_places(self.R, copy, plane, self.points, self.body_threshold)
        result[REFERENCE] = altered(self.R, copy, self.gamma, self.noise)
        points = moved_by(world, places)
        result["mapping"] = self.mapping
        result["points"], result["truth"] = torch.from_numpy(points), torch.from_numpy(self.mapping(points))
        result["point_names"] = [str(number) for number in range(1, len(places) + 1)]
        for key in (key for key in self.label_keys if key in result):
            label = _on_the_voxels_of(scan, result.pop(key))
            warped = pulled(label, plane, mode="nearest").to(label.dtype)
            result[f"{self.keys[0]}_label"], result[f"{REFERENCE}_label"] = label, warped
        return result


def _lattice(world: Array, shape: tuple[int, ...], step_mm: float) -> tuple[Array, tuple[int, ...]]:
    """Return affine and shape of a grid from corner to corner of a scan, its places at most so far apart."""
    extent = (np.asarray(shape) - 1) * np.linalg.norm(world[:3, :3], axis=0)
    counts = np.ceil(extent / step_mm).astype(int) + 1
    steps = (np.asarray(shape) - 1) / np.maximum(counts - 1, 1)
    return world @ np.diag([*np.where(counts > 1, steps, 1.0), 1.0]), tuple(counts.tolist())


def _through(grid: MapOnGrid) -> Plane:
    """Lead from voxels of the copy to voxels of the scan; both lie on the grid."""
    back = np.linalg.inv(grid.affine)
    return lambda index: moved_by(back, grid.plane(index))


def _on_the_voxels_of(scan: Tensor, label: Tensor) -> Tensor:
    if label.shape[1:] != scan.shape[1:]:
        raise InputError(
            f"{name_of(label)}: must be on the scan's voxels {tuple(scan.shape[1:])}, got {tuple(label.shape[1:])}; "
            "resample it."
        )
    return label
