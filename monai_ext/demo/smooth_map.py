# SPDX-License-Identifier: Apache-2.0
"""A known map of space, affine plus smooth warp, with its exact Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Points = NDArray[np.float64]

_CHUNK = 1 << 12


@dataclass(frozen=True)
class SmoothMap:
    """x = matrix @ y + offset + sum_k vectors[k] * exp(-|y - centres[k]|^2 / (2 * widths[k]^2)), all in RAS mm.

    Args:
        matrix: (3, 3) linear part of the affine.
        offset: (3,) translation in mm.
        centres: (K, 3) centres of the bumps in mm.
        vectors: (K, 3) displacement in mm at the bumps' centres.
        widths: (K,) standard deviations of the bumps in mm.

    Example:
        >>> still = SmoothMap(np.eye(3), np.zeros(3), np.zeros((1, 3)), np.ones((1, 3)), np.ones(1))
        >>> still(np.zeros((1, 3))).tolist()
        [[1.0, 1.0, 1.0]]
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    centres: NDArray[np.float64]
    vectors: NDArray[np.float64]
    widths: NDArray[np.float64]

    def __call__(self, points: Points) -> Points:
        """Map points (N, 3)."""
        return np.concatenate([self._affine(part) + self._warp(part) for part in _chunks(points)])

    def warp(self, points: Points) -> Points:
        """Return the displacement (N, 3) that the smooth part adds at the points."""
        return np.concatenate([self._warp(part) for part in _chunks(points)])

    def determinant(self, points: Points) -> NDArray[np.float64]:
        """Return the Jacobian determinant (N,) at the points."""
        return np.concatenate([np.linalg.det(self._jacobian(part)) for part in _chunks(points)])

    def scaled(self, factor: float) -> SmoothMap:
        """Return the map with the same affine and a warp ``factor`` times as strong."""
        return SmoothMap(self.matrix, self.offset, self.centres, self.vectors * factor, self.widths)

    def _affine(self, points: Points) -> Points:
        # written out, since the rounding of a matrix product may depend on the number of threads
        return sum((points[:, [axis]] * self.matrix[:, axis] for axis in range(3)), start=self.offset)

    def _warp(self, points: Points) -> Points:
        return np.einsum("nk,ki->ni", self._weights(points), self.vectors)

    def _jacobian(self, points: Points) -> NDArray[np.float64]:
        away = points[:, None] - self.centres  # (N, K, 3)
        slope = -(self._weights(points) / self.widths**2)[..., None] * away  # gradient of each bump
        return self.matrix + np.einsum("ki,nkj->nij", self.vectors, slope)

    def _weights(self, points: Points) -> NDArray[np.float64]:
        """Return the height (N, K) of each bump at each point."""
        squares = [np.subtract.outer(points[:, axis], self.centres[:, axis]) ** 2 for axis in range(3)]
        return np.exp((squares[0] + squares[1] + squares[2]) * (-0.5 / self.widths**2))


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


def _chunks(points: Points) -> list[Points]:
    """Split points into parts whose bumps fit into the processor's cache."""
    return [points[start : start + _CHUNK] for start in range(0, max(len(points), 1), _CHUNK)]
