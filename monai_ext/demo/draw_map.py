# SPDX-License-Identifier: Apache-2.0
"""How the head moves and deforms between the two scans of the follow-up pair."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from monai_ext.smooth_map import SmoothMap


def draw_map(rng: np.random.Generator) -> SmoothMap:
    """Draw a head movement of up to 8 degrees and 6 mm, up to 2 % of scale, and a warp of a few mm."""
    angles = rng.uniform(3, 8, 3) * rng.choice([-1, 1], 3)
    scales = rng.uniform(0.98, 1.02, 3)
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * scales
    offset = rng.uniform(2, 6, 3) * rng.choice([-1, 1], 3)
    bumps = 20
    centres = rng.uniform((-65, -100, -60), (65, 65, 75), (bumps, 3))
    direction = rng.standard_normal((bumps, 3))
    direction /= np.sqrt((direction**2).sum(axis=1, keepdims=True))
    vectors = direction * rng.uniform(1.5, 4.0, (bumps, 1))
    # rounded, so that the JSON file holds exactly the numbers that were used
    rounded = [np.round(values, 6) for values in (matrix, offset, centres, vectors, rng.uniform(20, 35, bumps))]
    return SmoothMap(*rounded)
