# SPDX-License-Identifier: Apache-2.0
"""Averaging volumes from one grid onto another."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.demo.grid import VoxelGrid, average_onto


def test_whole_factor_equals_the_mean_of_blocks() -> None:
    volume = np.random.rand(8, 6, 9).astype(np.float32)
    source = VoxelGrid((8, 6, 9), (1.0, 1.0, 1.0), (-3.0, 2.0, 7.0))
    result = average_onto(volume, source, source.coarsen((2.0, 3.0, 3.0)))
    np.testing.assert_allclose(result, volume.reshape(4, 2, 2, 3, 3, 3).mean(axis=(1, 3, 5)), rtol=1e-6)


def test_fractional_factor_equals_the_mean_of_many_thin_voxels() -> None:
    volume = np.random.rand(7, 5, 4).astype(np.float32)
    source = VoxelGrid((7, 5, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    target = VoxelGrid((4, 5, 4), (1.5, 1.0, 1.0), (0.5, 0.0, 0.0))
    thin = np.repeat(volume, 2, axis=0)[1:13]  # halves of voxels from 0.5 to 6.5 mm
    np.testing.assert_allclose(average_onto(volume, source, target), thin.reshape(4, 3, 5, 4).mean(axis=1), rtol=1e-5)


def test_the_outside_counts_as_zero() -> None:
    source = VoxelGrid((2, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    target = VoxelGrid((3, 1, 1), (2.0, 1.0, 1.0), (-1.0, 0.0, 0.0))
    result = average_onto(np.ones((2, 1, 1), np.float32), source, target)
    np.testing.assert_allclose(result.ravel(), [0.5, 0.5, 0.0])


def test_the_same_grid_changes_nothing() -> None:
    volume = np.random.rand(3, 4, 5).astype(np.float32)
    grid = VoxelGrid((3, 4, 5), (0.7, 1.0, 2.0), (1.0, 2.0, 3.0))
    assert np.array_equal(average_onto(volume, grid, grid), volume)


def test_a_crop_keeps_each_voxel_where_it_was() -> None:
    grid = VoxelGrid((10, 11, 12), (1.0, 1.5, 3.0), (-5.0, 4.0, 0.5))
    cropped = grid.crop((slice(2, 5), slice(0, 11), slice(7, 9)))
    np.testing.assert_allclose(cropped.affine @ [0, 0, 0, 1], grid.affine @ [2, 0, 7, 1])
    assert cropped.shape == (3, 11, 2)
    np.testing.assert_allclose(cropped.centres(2), grid.centres(2)[7:9])


def test_a_volume_of_another_shape_is_refused() -> None:
    grid = VoxelGrid((3, 4, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"shape of its grid \(3, 4, 5\), got \(3, 4, 6\)"):
        average_onto(np.zeros((3, 4, 6), np.float32), grid, grid)
