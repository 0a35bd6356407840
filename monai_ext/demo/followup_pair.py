# SPDX-License-Identifier: Apache-2.0
"""Two scans of one head at two times: the second is moved and deformed by a known map, with matching points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_ext.demo.draw_map import draw_map
from monai_ext.demo.mni_brain import BrainMaps
from monai_ext.demo.point_pairs import draw_point_pairs
from monai_ext.demo.pull_brain import FIELD_OF_VIEW, pull_brain
from monai_ext.demo.sites import rician
from monai_ext.smooth_map import Points, SmoothMap

NOISE = 0.01
SCALE = 1000

_LATTICE_MM = 4.0  # a fifth of the narrowest bump
_SMALLEST_DETERMINANT = 0.3


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
    grid = FIELD_OF_VIEW.coarsen((spacing[0], spacing[1], spacing[2]))
    mapping, determinants = _without_folds(draw_map(rng))
    followup = pull_brain(brain, mapping, grid)
    scans = [np.rint(rician(maps.t1, NOISE, rng) * SCALE).astype(np.int16) for maps in (brain, followup)]
    points = draw_point_pairs(brain, followup, mapping, rng)
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


def _without_folds(mapping: SmoothMap) -> tuple[SmoothMap, tuple[float, float]]:
    """Return the map without folds, and the extremes of its Jacobian determinant."""
    lattice = FIELD_OF_VIEW.coarsen((_LATTICE_MM,) * 3).positions()
    mapping = mapping.unfolded(lattice, _SMALLEST_DETERMINANT)
    determinant = mapping.determinant(lattice)
    return mapping, (float(determinant.min()), float(determinant.max()))
