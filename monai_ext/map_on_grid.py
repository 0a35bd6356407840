# SPDX-License-Identifier: Apache-2.0
"""A smooth map at all voxels of a grid, many times faster than point by point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monai_ext.smooth_map import WEAKER, SmoothMap

Array = NDArray[np.float64]

SKEW = 1e-6  # cosine between two axes up to which they stand at right angles; affines in float32 are that exact


class MapOnGrid:
    """The map and its Jacobian determinant, one plane of a grid at a time.

    On a grid whose axes stand at right angles, however it is turned, a Gaussian bump is the product of one number for
    each axis, so that a voxel costs one product for each bump instead of a distance and an exponential. On any other
    grid the map itself is asked.

    Sums are taken by ``einsum``, since the rounding of a matrix product may depend on the number of threads.

    Args:
        mapping: what is evaluated.
        affine: (4, 4) from the grid's voxels to RAS mm.
        shape: voxels along its three axes.

    Example:
        >>> push = SmoothMap(np.eye(3), np.zeros(3), np.zeros((1, 3)), np.ones((1, 3)), np.ones(1))
        >>> MapOnGrid(push, np.eye(4), (2, 2, 2)).plane(0)[0].tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(self, mapping: SmoothMap, affine: Array, shape: Sequence[int]) -> None:
        self.mapping = mapping
        self.affine = affine
        self.shape = tuple(shape)
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        self._axes = affine[:3, :3] / sizes
        cosines = self._axes.T @ self._axes - np.eye(3)
        self._separable = bool(np.abs(cosines).max() < SKEW)
        voxels = np.linalg.solve(affine[:3, :3], (mapping.centres - affine[:3, 3]).T)  # (3, K)
        away = [
            size * (np.arange(side)[None] - middle[:, None])
            for size, side, middle in zip(sizes, self.shape, voxels, strict=True)
        ]
        widths = mapping.widths[:, None]
        self._bells = [np.exp(-0.5 * (distance / widths) ** 2) for distance in away]  # (K, side) for each axis
        self._slopes = [-distance / widths**2 * b for distance, b in zip(away, self._bells, strict=True)]

    def points(self, index: int) -> Array:
        """Return where the voxels of a plane (index, :, :) lie, (N, 3) in mm, the last axis fastest."""
        rows, columns = (np.arange(side, dtype=np.float64) for side in self.shape[1:])
        across = rows[:, None, None] * self.affine[:3, 1] + columns[None, :, None] * self.affine[:3, 2]
        return (across + index * self.affine[:3, 0] + self.affine[:3, 3]).reshape(-1, 3)

    def plane(self, index: int) -> Array:
        """Return where the map leads from the voxels of a plane, (N, 3) in mm."""
        points = self.points(index)
        if not self._separable:
            return self.mapping(points)
        return self.mapping.affine(points) + self._sums(self._bells, index).reshape(3, -1).T

    def determinant(self, index: int) -> Array:
        """Return the Jacobian determinant (N,) at the voxels of a plane."""
        if not self._separable:
            return self.mapping.determinant(self.points(index))
        along = []
        for axis in range(3):
            factors = [self._slopes[a] if a == axis else self._bells[a] for a in range(3)]
            along.append(self._sums(factors, index).reshape(3, -1))
        change = np.stack(along, axis=-1)  # of each component, along each of the grid's axes: (3, N, 3)
        jacobians = np.einsum("ina,ja->nij", change, self._axes) + self.mapping.matrix
        return np.linalg.det(jacobians)

    def _sums(self, factors: Sequence[Array], index: int) -> Array:
        """Return the sum over the bumps (3, rows, columns), each the product of its factors."""
        first, rows, columns = factors
        weights = self.mapping.vectors.T * first[:, index]  # (3, K)
        return np.einsum("irk,kc->irc", weights[:, None] * rows.T, columns)


def unfolded_on(mapping: SmoothMap, affine: Array, shape: Sequence[int], least: float) -> SmoothMap:
    """Return the map, its warp weakened until the Jacobian determinant is at least so much at all voxels of a grid.

    Raises:
        ValueError: the affine's own determinant is less, which no weaker warp mends.
    """
    mapping.check_least(least)
    while True:
        grid = MapOnGrid(mapping, affine, shape)
        if all(grid.determinant(index).min() >= least for index in range(grid.shape[0])):
            return mapping
        mapping = mapping.scaled(WEAKER)
