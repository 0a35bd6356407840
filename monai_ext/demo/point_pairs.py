# SPDX-License-Identifier: Apache-2.0
"""Points inside the brain before and after a known movement, and the CSV file that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from monai_ext.demo.mni_brain import BrainMaps
from monai_ext.smooth_map import Points, SmoothMap

POINTS = 200

_DEPTH_MM = 4.0


def draw_point_pairs(brain: BrainMaps, moved: BrainMaps, mapping: SmoothMap, rng: np.random.Generator) -> Points:
    """Draw points well inside the brain at both times, far apart from each other.

    Args:
        brain: the head before it moved.
        moved: the same head after it moved.
        mapping: from RAS mm in ``moved`` to RAS mm in ``brain``.
        rng: source of the points.

    Returns:
        (200, 6), RAS mm in ``brain`` (x, y, z), then in ``moved`` (x, y, z).
    """
    low = np.asarray(moved.grid.corner)
    high = low + np.asarray(moved.grid.shape) * moved.grid.spacing
    # three decimals, so that the CSV file holds the very positions that were mapped
    second = np.round(rng.uniform(low, high, (100 * POINTS, 3)), 3)
    first = mapping(second)
    inside = _deep(brain, first) & _deep(moved, second)
    candidates = np.concatenate([first, second], axis=1)[inside]
    distance = 12.0
    while len(chosen := _spread(candidates, distance)) < POINTS:
        distance *= 0.9
    return chosen


def points_as_csv(points: Points, names: Sequence[str] = ("baseline_", "followup_")) -> str:
    """Return points (N, 3 per name) in RAS mm as the text of a CSV file, numbered from 1.

    Args:
        points: one row per point, with the coordinates at each time side by side.
        names: what the columns of each time begin with.

    Example:
        >>> print(points_as_csv(np.arange(3.0)[None], names=[""]), end="")
        point,x_ras_mm,y_ras_mm,z_ras_mm
        1,0.000000,1.000000,2.000000
    """
    header = ",".join(["point", *(f"{name}{axis}_ras_mm" for name in names for axis in "xyz")])
    rows = [f"{1 + index}," + ",".join(f"{value:.6f}" for value in row) for index, row in enumerate(points)]
    return "\n".join([header, *rows]) + "\n"


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
