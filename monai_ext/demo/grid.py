# SPDX-License-Identifier: Apache-2.0
"""An axis-aligned voxel grid in RAS millimetres, and averaging a volume from one grid onto another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class VoxelGrid:
    """Voxels whose axes point to right, anterior and superior.

    Args:
        shape: voxels along x, y and z.
        spacing: size of a voxel in mm.
        corner: outer corner (not the centre) of voxel (0, 0, 0) in mm, so that grids of different spacing
            can cover exactly the same box.

    Example:
        >>> VoxelGrid(shape=(2, 2, 2), spacing=(1.0, 1.0, 4.0), corner=(-1.0, -1.0, -4.0)).affine[:3, 3].tolist()
        [-0.5, -0.5, -2.0]
    """

    shape: tuple[int, int, int]
    spacing: Triple
    corner: Triple

    @property
    def affine(self) -> NDArray[np.float64]:
        """The 4x4 matrix from voxel indices to the RAS mm of voxel centres."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = np.asarray(self.corner) + np.asarray(self.spacing) / 2
        return affine

    def edges(self, axis: int) -> NDArray[np.float64]:
        """Return the shape[axis] + 1 positions in mm of the planes between the voxels."""
        return self.corner[axis] + self.spacing[axis] * np.arange(self.shape[axis] + 1, dtype=np.float64)

    def centres(self, axis: int) -> NDArray[np.float64]:
        """Return the shape[axis] positions in mm of the voxel centres."""
        return self.corner[axis] + self.spacing[axis] * (np.arange(self.shape[axis], dtype=np.float64) + 0.5)

    def positions(self) -> NDArray[np.float64]:
        """Return the centres (N, 3) in mm of all voxels, the last axis fastest."""
        axes = np.meshgrid(*(self.centres(axis) for axis in range(3)), indexing="ij")
        return np.stack([axis.ravel() for axis in axes], axis=1)

    def crop(self, box: tuple[slice, slice, slice]) -> VoxelGrid:
        """Return the grid of ``volume[box]``; the slices have a start and a stop inside the volume."""
        shape = tuple(part.stop - part.start for part in box)
        corner = tuple(c + s * part.start for c, s, part in zip(self.corner, self.spacing, box, strict=True))
        return VoxelGrid((shape[0], shape[1], shape[2]), self.spacing, (corner[0], corner[1], corner[2]))

    def coarsen(self, spacing: Triple) -> VoxelGrid:
        """Return the smallest grid of this spacing with the same corner that covers this one."""
        shape = [math.ceil(n * old / new - 1e-6) for n, old, new in zip(self.shape, self.spacing, spacing, strict=True)]
        return VoxelGrid((shape[0], shape[1], shape[2]), spacing, self.corner)


def average_onto(volume: NDArray[np.float32], source: VoxelGrid, target: VoxelGrid) -> NDArray[np.float32]:
    """Give each target voxel the mean of ``volume`` over the voxel's box; outside of the source counts as 0.

    This is what a scanner with larger voxels does (partial volume), it cannot alias, and it uses no
    matrix product, whose rounding may depend on the number of threads.

    Args:
        volume: (X, Y, Z), values on the source grid.
        source: grid of the volume.
        target: grid wanted.

    Example:
        >>> fine = VoxelGrid((4, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
        >>> values = np.array([0, 1, 2, 5], np.float32).reshape(4, 1, 1)
        >>> average_onto(values, fine, fine.coarsen((2.0, 1.0, 1.0))).ravel().tolist()
        [0.5, 3.5]
    """
    if volume.shape != source.shape:
        raise ValueError(f"volume must have the shape of its grid {source.shape}, got {volume.shape}.")
    for axis in (2, 1, 0):
        if not _same_axis(source, target, axis):
            position = (target.edges(axis) - source.corner[axis]) / source.spacing[axis]
            volume = _average_axis(volume, position, axis)
    return volume


def _same_axis(source: VoxelGrid, target: VoxelGrid, axis: int) -> bool:
    """True if both grids have the very same voxels along the axis."""
    a, b = source.edges(axis), target.edges(axis)
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=1e-6))


def _average_axis(volume: NDArray[np.float32], position: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Average between fractional voxel positions, as differences of the integral along the axis."""
    moved = np.moveaxis(volume, axis, 0)
    size = len(moved)
    integral = np.zeros((size + 1, *moved.shape[1:]))
    np.cumsum(moved, axis=0, dtype=np.float64, out=integral[1:])
    inside = np.clip(position, 0, size)
    lower = np.minimum(inside.astype(int), size - 1)
    fraction = (inside - lower)[:, None, None]
    at_edges = integral[lower] + fraction * moved[lower]
    mean = np.diff(at_edges, axis=0) / np.diff(position)[:, None, None]
    return np.ascontiguousarray(np.moveaxis(mean, 0, axis), dtype=np.float32)
