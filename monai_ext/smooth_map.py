# SPDX-License-Identifier: Apache-2.0
"""A known map of space, affine plus smooth warp, with its exact Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

WEAKER = 0.75

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
        return np.concatenate([self.affine(part) + self._warp(part) for part in _chunks(points)])

    def warp(self, points: Points) -> Points:
        """Return the displacement (N, 3) that the smooth part adds at the points."""
        return np.concatenate([self._warp(part) for part in _chunks(points)])

    def determinant(self, points: Points) -> NDArray[np.float64]:
        """Return the Jacobian determinant (N,) at the points."""
        return np.concatenate([np.linalg.det(self._jacobian(part)) for part in _chunks(points)])

    def scaled(self, factor: float) -> SmoothMap:
        """Return the map with the same affine and a warp ``factor`` times as strong."""
        return SmoothMap(self.matrix, self.offset, self.centres, self.vectors * factor, self.widths)

    def unfolded(self, positions: Points, least: float = 0.3) -> SmoothMap:
        """Return the map, its warp weakened until the Jacobian determinant is at least so much at all positions (N, 3).

        Raises:
            ValueError: the affine's own determinant is less, which no weaker warp mends.
        """
        self.check_least(least)
        found = self
        while found.determinant(positions).min() < least:
            found = found.scaled(WEAKER)
        return found

    def check_least(self, least: float) -> None:
        """Raise a ValueError if no weaker warp could reach this determinant."""
        if not np.linalg.det(self.matrix) >= least > 0:
            raise ValueError(f"least must be in (0, {np.linalg.det(self.matrix):g}], the affine's own, got {least}.")

    def affine(self, points: Points) -> Points:
        """Map points (N, 3) by the affine part alone."""
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


def _chunks(points: Points) -> list[Points]:
    """Split points into parts whose bumps fit into the processor's cache."""
    return [points[start : start + _CHUNK] for start in range(0, max(len(points), 1), _CHUNK)]
