# SPDX-License-Identifier: Apache-2.0
"""SmoothMap: its Jacobian is that of its formula, and a warp is weakened no more than folding asks for."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.smooth_map import WEAKER, SmoothMap


def drawn(strength: float = 4.0) -> SmoothMap:
    rng = np.random.default_rng(0)
    centres, vectors = rng.uniform(-20, 20, (6, 3)), strength * rng.standard_normal((6, 3))
    return SmoothMap(np.diag([1.1, 0.9, 1.0]), np.array([1.0, 2.0, 3.0]), centres, vectors, rng.uniform(8, 12, 6))


def places(count: int = 500) -> np.ndarray:
    return np.random.default_rng(1).uniform(-30, 30, (count, 3))


def test_the_determinant_is_that_of_small_differences() -> None:
    mapping, at, step = drawn(), places(), 1e-5
    columns = [(mapping(at + step * axis) - mapping(at - step * axis)) / (2 * step) for axis in np.eye(3)]
    np.testing.assert_allclose(mapping.determinant(at), np.linalg.det(np.stack(columns, axis=-1)), atol=1e-6)


def test_a_map_that_does_not_fold_is_left_alone() -> None:
    mapping = drawn(0.1)
    assert mapping.unfolded(places()) is mapping


def test_a_folding_map_is_weakened_to_the_first_that_does_not() -> None:
    folding, at = drawn(20.0), places()
    assert folding.determinant(at).min() < 0
    found = folding.unfolded(at, 0.3)
    assert found.determinant(at).min() >= 0.3 > found.scaled(1 / WEAKER).determinant(at).min()
    np.testing.assert_array_equal(found.matrix, folding.matrix)


def test_more_than_the_affine_itself_leaves_is_refused() -> None:
    with pytest.raises(ValueError, match=r"least must be in \(0, 0\.99\]"):
        drawn().unfolded(places(), 1.0)
