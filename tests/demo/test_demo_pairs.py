# SPDX-License-Identifier: Apache-2.0
"""The pairs with known affines, checked from their files alone with other software than they were made with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from monai_ext.demo import write_demo_data
from monai_ext.demo.affine_pairs import PAIRS, make_affine_pair
from monai_ext.demo.mni_brain import load_brain

NAMES = [recipe.name for recipe in PAIRS]
TISSUE = 0.4  # of the brain's brightest voxel: far above the noise, after any of the exponents

every_pair = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "data"
    write_demo_data(path, resolution=4)
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def read_points(folder: Path, name: str) -> NDArray[np.float64]:
    return np.loadtxt(folder / "pairs" / name / "points.csv", delimiter=",", skiprows=1)


def turn(degrees: list[float]) -> NDArray[np.float64]:
    """The turn about x, then y, then z, by the definition of each, without the package's code."""
    a, b, c = (math.radians(angle) for angle in degrees)
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def sample(path: Path, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return image values at RAS mm, read by ITK, whose world is LPS."""
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
    return np.array([image.EvaluateAtPhysicalPoint((-x, -y, z), sitk.sitkLinear) for x, y, z in points.tolist()])


@every_pair
def test_the_points_are_written_like_those_of_the_follow_up_pair(folder: Path, name: str) -> None:
    headers = [
        (folder / part / "points.csv").read_text(encoding="utf-8").splitlines()[0]
        for part in (f"pairs/{name}", "followup")
    ]
    assert headers[0] == headers[1]
    points = read_points(folder, name)
    assert points.shape == (200, 7)
    assert points[:, 0].tolist() == list(range(1, 201))


@every_pair
def test_each_pair_of_points_obeys_the_written_affine(folder: Path, name: str) -> None:
    affine = np.array(read(folder / "pairs" / name / "transform.json")["affine"])
    points = read_points(folder, name)
    followup = np.c_[points[:, 4:], np.ones(len(points))]
    np.testing.assert_allclose((followup @ affine.T)[:, :3], points[:, 1:4], atol=1e-6, rtol=0)


@every_pair
def test_the_affine_undoes_exactly_the_turn_and_the_size_that_are_promised(folder: Path, name: str) -> None:
    record = read(folder / "pairs" / name / "transform.json")
    recipe = PAIRS[NAMES.index(name)]
    assert [abs(angle) for angle in record["turn_degrees_xyz"]] == [recipe.degrees] * 3
    forward = recipe.size * turn(record["turn_degrees_xyz"])
    np.testing.assert_allclose(np.array(record["affine"])[:3, :3] @ forward, np.eye(3), atol=2e-6)


@every_pair
def test_both_scans_look_alike_at_the_points_and_only_there(folder: Path, name: str) -> None:
    points = read_points(folder, name)
    brain, moving = folder / "brain" / "image.nii.gz", folder / "pairs" / name / "moving.nii.gz"
    expected = (sample(brain, points[:, 1:4]) / 255) ** PAIRS[NAMES.index(name)].gamma
    unmoved = (sample(brain, points[:, 4:]) / 255) ** PAIRS[NAMES.index(name)].gamma
    found = sample(moving, points[:, 4:]) / PAIRS[NAMES.index(name)].scale
    agreement = np.corrcoef(expected, found)[0, 1]
    assert agreement > 0.9
    assert agreement > np.corrcoef(unmoved, found)[0, 1] + 0.2
    np.testing.assert_allclose(found.mean(), expected.mean(), atol=0.02)


@every_pair
def test_the_whole_head_is_in_view_and_as_large_as_promised(folder: Path, name: str) -> None:
    recipe = PAIRS[NAMES.index(name)]
    volumes = []
    for path, threshold in (
        (folder / "brain" / "image.nii.gz", 255 * TISSUE),
        (folder / "pairs" / name / "moving.nii.gz", recipe.scale * TISSUE**recipe.gamma),
    ):
        image = sitk.ReadImage(str(path))
        tissue = sitk.GetArrayFromImage(image) > threshold
        volumes.append(tissue.sum() * np.prod(image.GetSpacing()))
    assert not tissue[[0, -1]].any()
    assert not tissue[:, [0, -1]].any()
    assert not tissue[:, :, [0, -1]].any()
    np.testing.assert_allclose(volumes[1] / volumes[0], recipe.size**3, rtol=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_every_seed_moves_every_pair_as_far(seed: int) -> None:
    brain = load_brain(resolution=4)
    for recipe in PAIRS:
        pair = make_affine_pair(brain, recipe, seed)
        np.testing.assert_allclose(np.linalg.det(pair.mapping.matrix), recipe.size**-3, rtol=1e-5)
        assert np.abs(pair.degrees).tolist() == [recipe.degrees] * 3
        assert len(pair.points) == 200


def test_the_list_of_pairs_leads_to_all_scans_and_stores_none_twice(folder: Path) -> None:
    listed = read(folder / "pairs.json")
    assert [item["case"] for item in listed["test"]] == [*NAMES, "followup"]
    for item in listed["test"]:
        assert all((folder / item[key]).is_file() for key in ("fixed", "moving", "points"))
    assert {item["fixed"] for item in listed["test"]} == {"brain/image.nii.gz", "followup/baseline.nii.gz"}
    assert (folder / listed["licence"].split()[-1]).is_file()


def test_the_list_to_learn_from_holds_the_brain_and_no_scan_of_a_pair_that_was_moved(folder: Path) -> None:
    listed = read(folder / "scans.json")
    moved = {item["moving"] for item in read(folder / "pairs.json")["test"]}
    for part in ("training", "validation"):
        assert listed[part] == [{"image": "brain/image.nii.gz"}]
        assert not moved & {item["image"] for item in listed[part]}
