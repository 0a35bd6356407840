# SPDX-License-Identifier: Apache-2.0
"""Affines (4, 4) that take voxel indices to RAS millimetres: how far apart two are, how skewed one is."""

from __future__ import annotations

import numpy as np

# ITK and SimpleITK 2.5 refuse a NIfTI file somewhere between 1e-4 and 2e-4
ORTHONORMAL_TOLERANCE = 1e-4
# two places of a voxel that differ by less than this part of its shortest edge are one place
PLACE_TOLERANCE = 0.1


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Return the edge lengths (3,) of a voxel in mm."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def skew_of(affine: np.ndarray) -> float:
    """Return the largest cosine between two axes: 0 for perpendicular ones.

    Example:
        >>> skew_of(np.diag([2.0, 2.0, 5.0, 1.0]))
        0.0
    """
    direction = affine[:3, :3] / spacing_of(affine)
    return float(np.abs(direction.T @ direction - np.eye(3)).max())


def nearest_orthonormal(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the affine with the same spacing and centre whose direction is the nearest orthonormal one.

    The nearest rotation (or reflection) in the least-squares sense is the unitary factor of the polar
    decomposition of the direction cosines.
    """
    spacing = spacing_of(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    mended = np.eye(4)
    mended[:3, :3] = (left @ right) * spacing
    centre = (_three(shape) - 1) / 2
    mended[:3, 3] = affine[:3, 3] + (affine[:3, :3] - mended[:3, :3]) @ centre
    return mended


def corner_shift(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest distance in mm between the places that two affines give a corner of the grid."""
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in _three(shape)], indexing="ij")).reshape(3, 8)
    difference = (first - second) @ np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(difference[:3], axis=0).max())


def same_place(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Tell whether two affines put the grid at the same place, to a tenth of a voxel."""
    return corner_shift(first, second, shape) <= PLACE_TOLERANCE * float(spacing_of(first).min())


def is_usable(affine: np.ndarray) -> bool:
    """Tell whether the affine is finite and can be inverted."""
    return bool(np.isfinite(affine).all()) and abs(float(np.linalg.det(affine[:3, :3]))) > 1e-12


def _three(shape: tuple[int, ...]) -> np.ndarray:
    return np.array((*shape, 1, 1, 1)[:3])
