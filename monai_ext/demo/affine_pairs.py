# SPDX-License-Identifier: Apache-2.0
"""Scans of a head that was turned, shifted and scaled by a known affine, to measure how well points are matched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from monai_ext.demo.grid import Triple, VoxelGrid
from monai_ext.demo.mni_brain import BrainMaps
from monai_ext.demo.point_pairs import draw_point_pairs
from monai_ext.demo.pull_brain import FIELD_OF_VIEW, pull_brain
from monai_ext.demo.sites import rician
from monai_ext.smooth_map import Points, SmoothMap


@dataclass(frozen=True)
class PairRecipe:
    """How the second scan of a pair differs from the brain.

    Args:
        name: folder under ``pairs/``.
        degrees: size of the turn about each of the axes x, y and z; the seed draws its directions.
        size: how many times as large the head is in the second scan.
        spacing: voxel size in mm of the second scan; an axis is never finer than the brain's.
        gamma: exponent of the intensities 0..1, which changes the contrast.
        noise: standard deviation of the two noise channels (Rician), as a share of full scale.
        scale: stored value of intensity 1.
    """

    name: str
    degrees: float
    size: float
    spacing: Triple
    gamma: float
    noise: float
    scale: int


PAIRS = (
    PairRecipe("mild", 5.0, 1.05, (1.2, 1.2, 1.2), 1.2, 0.015, 1000),
    PairRecipe("hard", 12.0, 0.92, (1.0, 1.0, 2.0), 0.7, 0.03, 600),
)


@dataclass(frozen=True)
class AffinePair:
    """A moved scan of the brain and where its points came from.

    Args:
        recipe: what was wanted.
        degrees: signed turns about x, y and z, in this order about fixed axes, from the brain to the second scan.
        image: the second scan, int16 (X, Y, Z).
        grid: its voxels.
        mapping: from the second scan's RAS mm to the brain's RAS mm, without a warp.
        points: (200, 6), RAS mm in the brain (x, y, z), then in the second scan (x, y, z).
    """

    recipe: PairRecipe
    degrees: Triple
    image: NDArray[np.int16]
    grid: VoxelGrid
    mapping: SmoothMap
    points: Points


def make_affine_pair(brain: BrainMaps, recipe: PairRecipe, seed: int) -> AffinePair:
    """Scan the brain again after a known movement.

    The map leads from the second scan to the brain, so the scan's voxels and the points are both made by evaluating
    the same formula: no inverse is approximated anywhere.

    Args:
        brain: the head before it moved.
        recipe: one of `PAIRS` or a variant of one under the same name.
        seed: together with the name's place in `PAIRS` it fixes directions, shift, noise and points.
    """
    # the follow-up pair and the sites have the numbers below 100
    rng = np.random.default_rng([seed, 100 + [known.name for known in PAIRS].index(recipe.name)])
    degrees = recipe.degrees * rng.choice([-1, 1], 3)
    mapping = _draw_affine(degrees, recipe.size, rng)
    spacing = np.maximum(recipe.spacing, brain.grid.spacing)
    grid = FIELD_OF_VIEW.coarsen((spacing[0], spacing[1], spacing[2]))
    moved = pull_brain(brain, mapping, grid)
    signal = np.power(moved.t1, np.float32(recipe.gamma))
    image = np.rint(rician(signal, recipe.noise, rng) * recipe.scale).astype(np.int16)
    points = draw_point_pairs(brain, moved, mapping, rng)
    return AffinePair(recipe, (degrees[0], degrees[1], degrees[2]), image, grid, mapping, points)


def describe_affine(pair: AffinePair) -> dict[str, object]:
    """Return what a program needs to evaluate the map, as plain numbers for a JSON file."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = pair.mapping.matrix, pair.mapping.offset
    moved = np.linalg.norm(pair.points[:, :3] - pair.points[:, 3:], axis=1)
    recipe = pair.recipe
    return {
        "description": f"Known affine of the {recipe.name} pair. Baseline: the brain; follow-up: the moved scan.",
        "direction": "followup RAS mm (y) -> baseline RAS mm (x)",
        "formula": "x = A y + t; affine = [A t; 0 1]; A = transposed turn / size",
        "units": "mm",
        "affine": affine.tolist(),
        "turn_degrees_xyz": [float(angle) for angle in pair.degrees],
        "size": recipe.size,
        "at_the_points_mm": {
            "distance_mean": round(float(moved.mean()), 3),
            "distance_max": round(float(moved.max()), 3),
        },
        "images": {
            "gamma": recipe.gamma,
            "noise": recipe.noise,
            "scale": recipe.scale,
            "model": "brain ** gamma, then Rician noise; noise as a share of scale",
        },
    }


def _draw_affine(degrees: NDArray[np.float64], size: float, rng: np.random.Generator) -> SmoothMap:
    """Return the map back from a head that was turned about the origin, scaled and shifted by a few mm."""
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix().T / size
    offset = rng.uniform(2, 6, 3) * rng.choice([-1, 1], 3)
    none = np.zeros((0, 3))
    # rounded, so that the JSON file holds exactly the numbers that were used
    return SmoothMap(np.round(matrix, 6), np.round(offset, 6), none, none, np.zeros(0))
