# SPDX-License-Identifier: Apache-2.0
"""A map on a grid is the map at its voxels, on straight, turned and skewed grids."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monai_ext.map_on_grid import MapOnGrid, unfolded_on
from monai_ext.smooth_map import WEAKER, SmoothMap

SHAPE = (5, 7, 6)
TURN = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
GRIDS = {
    "straight": np.diag([2.0, 3.0, 4.0]),
    "flipped": np.array([[0, 0, -2.5], [3, 0, 0], [0, 2, 0]]),
    "turned": TURN * [2.0, 3.0, 4.0],
    "turned in float32": (TURN * [2.0, 3.0, 4.0]).astype(np.float32).astype(np.float64),
    "skewed": np.array([[2, 0.3, 0], [0, 3, 0], [0, 0, 4]]),
}


def drawn(bumps: int = 6, strength: float = 4.0) -> SmoothMap:
    rng = np.random.default_rng(0)
    centres, vectors = rng.uniform(-20, 20, (bumps, 3)), strength * rng.standard_normal((bumps, 3))
    linear = np.array([[1.1, 0.02, 0], [-0.03, 0.9, 0], [0, 0.01, 1]])
    return SmoothMap(linear, np.array([1.0, 2.0, 3.0]), centres, vectors, rng.uniform(3, 12, bumps))


def affine_of(name: str) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = GRIDS[name], (-6, -11, -9)
    return affine


def places(affine: np.ndarray) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1).reshape(-1, 3)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("bumps", [0, 6])
def test_it_is_the_map_at_the_voxels(name: str, bumps: int) -> None:
    mapping, affine = drawn(bumps), affine_of(name)
    grid, at = MapOnGrid(mapping, affine, SHAPE), places(affine)
    planes = range(SHAPE[0])
    np.testing.assert_allclose(np.concatenate([grid.points(i) for i in planes]), at, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([grid.plane(i) for i in planes]), mapping(at), atol=1e-5)
    determinants = np.concatenate([grid.determinant(i) for i in planes])
    np.testing.assert_allclose(determinants, mapping.determinant(at), atol=1e-5)


@pytest.mark.parametrize("name", ["turned", "skewed"])
def test_a_folding_map_is_weakened_to_the_first_that_does_not(name: str) -> None:
    folding, affine = drawn(strength=200.0), affine_of(name)
    assert folding.determinant(places(affine)).min() < 0
    found = unfolded_on(folding, affine, SHAPE, 0.3)
    np.testing.assert_array_equal(found.vectors, folding.unfolded(places(affine), 0.3).vectors)
    assert found.scaled(1 / WEAKER).determinant(places(affine)).min() < 0.3
    with pytest.raises(ValueError, match="the affine's own"):
        unfolded_on(folding, affine, SHAPE, 1.0)
