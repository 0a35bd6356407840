# SPDX-License-Identifier: Apache-2.0
"""Two scans of one head at two times: the second is moved and deformed by a known map, with matching points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from monai_ext.demo.grid import VoxelGrid
from monai_ext.demo.mni_brain import BrainMaps
from monai_ext.demo.sites import rician
from monai_ext.demo.smooth_map import Points, SmoothMap, draw_map

POINTS = 200
NOISE = 0.01
SCALE = 1000

_LATTICE_MM = 4.0  # a fifth of the narrowest bump
_SMALLEST_DETERMINANT = 0.3
_DEPTH_MM = 4.0
_CORNER = (-96.0, -132.0, -98.0)
_EXTENT = (192.0, 232.0, 208.0)


@dataclass(frozen=True)
class FollowupPair:
    """Baseline and follow-up of one head.

    Args:
        baseline: maps at the first time.
        followup: maps at the second time, on a grid of their own.
        images: the two scans, int16 (X, Y, Z) each.
        mapping: from the follow-up's RAS mm to the baseline's RAS mm.
        determinants: smallest and largest Jacobian determinant of the mapping over the follow-up's field of view.
        points: (200, 6), RAS mm in the baseline (x, y, z), then in the follow-up (x, y, z).
    """

    baseline: BrainMaps
    followup: BrainMaps
    images: tuple[NDArray[np.int16], NDArray[np.int16]]
    mapping: SmoothMap
    determinants: tuple[float, float]
    points: Points


def make_followup_pair(brain: BrainMaps, seed: int) -> FollowupPair:
    """Simulate a follow-up scan whose correspondence to the baseline is known exactly.

    The map leads from the follow-up to the baseline, so the follow-up's voxels and the points are both made by
    evaluating the same formula: no inverse is approximated anywhere.

    Args:
        brain: the baseline.
        seed: fixes the map, the noise and the points.
    """
    rng = np.random.default_rng([seed, 0])
    spacing = np.maximum((1.0, 1.0, 1.2), brain.grid.spacing)
    box = VoxelGrid((1, 1, 1), _EXTENT, _CORNER)
    grid = box.coarsen((spacing[0], spacing[1], spacing[2]))
    mapping, determinants = _without_folds(draw_map(rng), box)
    followup = _pull(brain, mapping, grid)
    scans = [np.rint(rician(maps.t1, NOISE, rng) * SCALE).astype(np.int16) for maps in (brain, followup)]
    points = _draw_points(brain, followup, mapping, rng)
    return FollowupPair(brain, followup, (scans[0], scans[1]), mapping, determinants, points)


def describe_map(pair: FollowupPair) -> dict[str, object]:
    """Return what a program needs to evaluate the map, as plain numbers for a JSON file."""
    mapping = pair.mapping
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = mapping.matrix, mapping.offset
    warp = np.linalg.norm(mapping.warp(pair.points[:, 3:]), axis=1)
    moved = np.linalg.norm(pair.points[:, :3] - pair.points[:, 3:], axis=1)
    bumps = zip(mapping.centres.tolist(), mapping.vectors.tolist(), mapping.widths.tolist(), strict=True)
    return {
        "description": "Known map of the follow-up pair: an affine plus a sum of Gaussian bumps.",
        "direction": "followup RAS mm (y) -> baseline RAS mm (x)",
        "formula": "x = A y + t + sum over bumps of vector * exp(-|y - centre|^2 / (2 width^2)); affine = [A t; 0 1]",
        "units": "mm",
        "affine": affine.tolist(),
        "bumps": [{"centre": centre, "vector": vector, "width": width} for centre, vector, width in bumps],
        "jacobian_determinant": {
            "minimum": round(pair.determinants[0], 6),
            "maximum": round(pair.determinants[1], 6),
            "evaluated_on": f"lattice of {_LATTICE_MM:g} mm over the field of view of the follow-up",
        },
        "at_the_points_mm": {
            "distance_mean": round(float(moved.mean()), 3),
            "distance_max": round(float(moved.max()), 3),
            "warp_mean": round(float(warp.mean()), 3),
            "warp_max": round(float(warp.max()), 3),
        },
        "images": {"noise": NOISE, "scale": SCALE, "model": "Rician; noise as a share of scale"},
    }


def _without_folds(mapping: SmoothMap, box: VoxelGrid) -> tuple[SmoothMap, tuple[float, float]]:
    """Weaken the warp until its Jacobian determinant is clearly positive, and return its extremes."""
    lattice = _centres(box.coarsen((_LATTICE_MM,) * 3))
    while True:
        determinant = mapping.determinant(lattice)
        if determinant.min() >= _SMALLEST_DETERMINANT:
            return mapping, (float(determinant.min()), float(determinant.max()))
        mapping = mapping.scaled(0.75)


def _pull(brain: BrainMaps, mapping: SmoothMap, grid: VoxelGrid) -> BrainMaps:
    """Give each voxel of the grid the baseline's values (linear interpolation) where the map leads."""
    corner, spacing = np.asarray(brain.grid.corner), np.asarray(brain.grid.spacing)
    pulled = [np.empty(grid.shape, np.float32) for _ in brain.maps]
    for index in range(grid.shape[2]):  # slice by slice: coordinates of a whole volume take 200 MB
        plane = _centres(grid.crop((slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(index, index + 1))))
        position = ((mapping(plane) - corner) / spacing - 0.5).T
        for volume, result in zip(brain.maps, pulled, strict=True):
            values = map_coordinates(volume, position, order=1, mode="constant")
            result[:, :, index] = values.reshape(grid.shape[:2])
    return BrainMaps(grid, *pulled)


def _draw_points(brain: BrainMaps, followup: BrainMaps, mapping: SmoothMap, rng: np.random.Generator) -> Points:
    """Draw points well inside the brain at both times, far apart from each other."""
    low = np.asarray(followup.grid.corner)
    high = low + np.asarray(followup.grid.shape) * followup.grid.spacing
    # three decimals, so that the CSV file holds the very positions that were mapped
    second = np.round(rng.uniform(low, high, (100 * POINTS, 3)), 3)
    first = mapping(second)
    inside = _deep(brain, first) & _deep(followup, second)
    candidates = np.concatenate([first, second], axis=1)[inside]
    distance = 12.0
    while len(chosen := _spread(candidates, distance)) < POINTS:
        distance *= 0.9
    return chosen


def _deep(maps: BrainMaps, points: Points) -> NDArray[np.bool_]:
    """Tell which points have brain in all 26 directions at `_DEPTH_MM`."""
    directions = np.stack(np.meshgrid(*[(-1.0, 0.0, 1.0)] * 3), axis=-1).reshape(27, 3)
    length = np.sqrt((directions**2).sum(axis=1, keepdims=True))
    around = points[:, None] + _DEPTH_MM * directions / np.maximum(length, 1)  # (N, 27, 3), the point itself too
    position = (around.reshape(-1, 3) - maps.grid.corner) / maps.grid.spacing - 0.5
    share = map_coordinates(maps.brain, position.T, order=0, mode="constant")
    return (share.reshape(-1, 27) >= 0.5).all(axis=1)


def _spread(candidates: Points, distance: float) -> Points:
    """Take candidates in their order, leaving out what is nearer than ``distance`` mm to one taken before."""
    free = np.ones(len(candidates), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < POINTS and free.any():
        index = int(np.argmax(free))
        chosen.append(index)
        away = candidates[:, 3:] - candidates[index, 3:]
        free &= (away**2).sum(axis=1) > distance**2
    return candidates[chosen]


def _centres(grid: VoxelGrid) -> Points:
    """Return the voxel centres (N, 3) in mm, the last axis fastest."""
    axes = np.meshgrid(*(grid.centres(axis) for axis in range(3)), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)
