# SPDX-License-Identifier: Apache-2.0
"""Matched points are drawn where the scans show them, in the colour of their error."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import center_of_mass, label

from monai_ext.report.match_picture import DrawnMatches, match_picture

NEAR, FAR = (70, 165, 255), (255, 90, 20)  # no error, and the limit or more
TURNED = np.array([[0.0, -1.5, 0.0, 60.0], [2.0, 0.0, 0.0, -70.0], [0.0, 0.0, 1.2, -40.0], [0.0, 0.0, 0.0, 1.0]])
LEVEL = np.array([[30.0, 25.0, 0.0], [-30.0, 25.0, 0.0], [0.0, -30.0, 0.0]])
TILTED = LEVEL + np.array([0.0, 0.0, 1.0]) * 0.6 * LEVEL[:, :1]


def scan(path: Path, balls: NDArray[np.float64], affine: NDArray[np.float64]) -> Path:
    """A dark volume with a bright ball of 7 mm radius around each place."""
    index = np.stack(np.meshgrid(*[np.arange(75)] * 3, indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    near = [np.linalg.norm(world - ball, axis=-1) <= 7 for ball in balls]
    nib.save(nib.Nifti1Image(np.any(near, axis=0).astype(np.int16) * 900, affine), path)
    return path


def draw(folder: Path, truth: NDArray[np.float64], found: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """The upper and the lower panel of one slice."""
    plain = np.diag([2.0, 2.0, 2.0, 1.0])
    plain[:3, 3] = -75
    fixed, moving = scan(folder / "fixed.nii", LEVEL, plain), scan(folder / "moving.nii", truth, TURNED)
    sheet = np.asarray(match_picture(fixed, moving, DrawnMatches(LEVEL, truth, found), slices=1))
    half = (len(sheet) - 18) // 2
    return sheet[:half], sheet[half:-30]


def centres(panel: NDArray, colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """The centres (rows, columns) of the dots of a colour, from left to right."""
    mask = (panel == colour).all(axis=-1)
    blobs, count = label(mask, structure=np.ones((3, 3)))
    return np.array(sorted(center_of_mass(mask, blobs, range(1, count + 1)), key=lambda place: place[1]))


def test_dots_lie_on_what_the_points_show_in_both_scans_even_if_the_head_is_tilted(tmp_path: Path) -> None:
    for panel in draw(tmp_path, TILTED, TILTED):
        dots = centres(panel, NEAR)
        assert len(dots) == 3
        for row, column in dots.round().astype(int):
            around = [panel[row + 7, column], panel[row - 7, column], panel[row, column + 7], panel[row, column - 7]]
            assert np.min(around) > 200
            assert panel[row + 16, column].max() < 50


def test_the_patients_right_is_on_the_left_and_the_front_above(tmp_path: Path) -> None:
    found = LEVEL + np.array([[0.0, 0.0, 50.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # the first, on the right, is wrong
    upper, lower = draw(tmp_path, LEVEL, found)
    for panel in (upper, lower):
        ((wrong_row, wrong_column),) = centres(panel, FAR)
        (middle_row, middle_column), (_, left_column) = centres(panel, NEAR)
        assert wrong_column < middle_column < left_column
        assert wrong_row < middle_row


def test_a_line_leads_from_where_a_point_was_found_to_its_true_place(tmp_path: Path) -> None:
    found = LEVEL + np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, -20.0, 0.0]])
    _, lower = draw(tmp_path, LEVEL, found)
    row, column = max(centres(lower, FAR).round().astype(int).tolist())  # the dot; its line goes up from it
    line = (lower[row - 30 : row - 5, column - 2 : column + 3] == FAR).all(axis=-1)  # 20 mm are 30 pixels
    assert line.any(axis=1).all()
    assert not (lower[: row - 33] == FAR).all(axis=-1).any()


def test_the_file_stays_small_even_of_noise(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (160, 160, 90)).astype(np.uint8)
    affine = np.diag([1.2, 1.5, 1.0, 1.0])
    affine[:3, 3] = -90, -110, -45
    nib.save(nib.Nifti1Image(noise, affine), tmp_path / "noise.nii")
    places = np.random.default_rng(1).uniform(-40, 40, (200, 3))
    picture = match_picture(tmp_path / "noise.nii", tmp_path / "noise.nii", DrawnMatches(places, places, places + 3))
    picture.save(tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size < 2**20
    assert Image.open(tmp_path / "noise.png").size == picture.size


def test_places_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be \(N, 3\) with a point at least"):
        match_picture(tmp_path / "a.nii", tmp_path / "b.nii", DrawnMatches(LEVEL, LEVEL[:2], LEVEL))
