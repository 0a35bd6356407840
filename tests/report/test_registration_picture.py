# SPDX-License-Identifier: Apache-2.0
"""The picture shows what the transform does, the patient's right on the left, in less than 1 MiB."""

from __future__ import annotations

import io

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from PIL import Image
from torch import Tensor

from monai_ext.registration import TransformChain, WorldGrid, resample
from monai_ext.report.registration_picture import PICTURE_BYTES, picture_bytes, registration_picture
from tests.registration.anatomy import orientations, turned

LINE = (255, 190, 60)
SIDE, GAP, BAR = 160, 4, 16
SIZE = (40, 40, 40)


def scan(values: Tensor, affine: Tensor | None = None) -> MetaTensor:
    return MetaTensor(values[None], affine=torch.eye(4) if affine is None else affine)


def smooth(seed: int) -> Tensor:
    """Random, and dark towards the edges, so that nothing leaves the volume."""
    coarse = torch.rand(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
    window = torch.hann_window(40, periodic=False)
    values = torch.nn.functional.interpolate(coarse, size=SIZE, mode="trilinear")[0, 0]
    return values * torch.einsum("i,j,k->ijk", window, window, window)


def panels(picture: Image.Image) -> list[list[np.ndarray]]:
    """Panels [row][column], each (160, 160, 3)."""
    pixels = np.asarray(picture)
    corners = [[(BAR + r * (SIDE + GAP), GAP + c * (SIDE + GAP)) for c in range(6)] for r in range(3)]
    return [[pixels[top : top + SIDE, left : left + SIDE] for top, left in row] for row in corners]


def drawn(fixed: MetaTensor, moving: MetaTensor, transform: TransformChain) -> list[list[np.ndarray]]:
    return panels(registration_picture(fixed, moving, transform, torch.ones(fixed.shape[1:], dtype=torch.bool)))


def test_a_scan_and_itself_make_one_picture_and_a_straight_grid() -> None:
    for row in drawn(scan(smooth(0)), scan(smooth(0)), TransformChain([])):
        for panel in row[1:5]:
            np.testing.assert_array_equal(panel, row[0])
        lines = (row[5] == LINE).all(axis=-1)
        assert set(lines.mean(axis=0)) == {1.0, lines.mean(axis=0).min()}
        assert 10 < (lines.mean(axis=0) == 1).sum() < 20


def test_a_registered_scan_fits_into_the_checkerboard() -> None:
    """The moving scan is the fixed one seen through the inverse of the transform."""
    matrix = turned((8.0, -6.0, 5.0), (1.0, 1.0, 1.0), (2.0, -2.0, 1.0))
    grid = WorldGrid(SIZE, torch.eye(4))
    moved = resample(smooth(1)[None], grid, TransformChain([torch.linalg.inv(matrix)]), grid)[0]
    for row in drawn(scan(smooth(1)), scan(moved), TransformChain([matrix])):
        middle = (slice(50, 110), slice(50, 110))
        fixed, before, after = (row[column][middle].astype(float) for column in (0, 2, 4))
        assert np.abs(after - fixed).mean() < 0.3 * np.abs(before - fixed).mean()
        assert not (row[5] == LINE).all(axis=-1).all(axis=0).any()


def test_right_front_and_top_are_where_radiology_has_them_in_all_orientations() -> None:
    values = torch.zeros(SIZE)
    values[30:, 17:23, 17:23] = 1.0  # on the patient's right
    values[17:23, 30:, 17:23] = 0.7  # in front
    values[17:23, 17:23, 30:] = 0.4  # at the top
    reference = drawn(scan(values), scan(values), TransformChain([]))
    axial, coronal, sagittal = (row[0][..., 0] for row in reference)
    assert axial[80, 20] == 255 > axial[20, 80] > 100 > axial[80, 140] == axial[140, 80] == 0
    assert coronal[80, 20] == 255 > coronal[20, 80] > 80 > coronal[140, 80] == 0
    assert sagittal[80, 20] > sagittal[20, 80] > 80 > sagittal[80, 140] == 0
    for turn in orientations()[5::13]:
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] = turn
        affine[:3, 3] = -turn.clamp(max=0).sum(dim=1) * 39
        grids = WorldGrid(SIZE, torch.eye(4)), WorldGrid(SIZE, affine)
        stored = resample(values[None], grids[0], TransformChain([]), grids[1], "nearest")[0]
        other = drawn(scan(stored, affine), scan(values), TransformChain([]))
        np.testing.assert_array_equal(other[0][0], reference[0][0])


def test_a_picture_of_noise_is_shrunk_below_the_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 1000, 3), dtype=np.uint8)
    content = picture_bytes(Image.fromarray(noise))
    assert len(content) < PICTURE_BYTES == 2**20
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (500, 300)
