# SPDX-License-Identifier: Apache-2.0
"""The follow-up pair, checked from its files alone with other software than it was made with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.optimize import root

from monai_ext.data.point_file import read_points
from monai_ext.demo.dataset import _write_followup
from monai_ext.demo.draw_map import draw_map
from monai_ext.demo.followup_pair import make_followup_pair
from monai_ext.demo.mni_brain import load_brain
from monai_ext.demo.output_folder import DemoFolder
from monai_ext.demo.preview import Preview


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("followup")
    _write_followup(DemoFolder(path), make_followup_pair(load_brain(resolution=2), seed=0), Preview(18.0))
    return path / "followup"


@pytest.fixture(scope="module")
def points(folder: Path) -> NDArray[np.float64]:
    return np.loadtxt(folder / "points.csv", delimiter=",", skiprows=1)


@pytest.fixture(scope="module")
def record(folder: Path) -> dict:
    return json.loads((folder / "transform.json").read_text(encoding="utf-8"))


def evaluate(record: dict, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return baseline mm of one follow-up point, by the formula in the file, without the package's code."""
    x = [sum(row[j] * y[j] for j in range(3)) + row[3] for row in record["affine"][:3]]
    for bump in record["bumps"]:
        square = sum((y[j] - bump["centre"][j]) ** 2 for j in range(3))
        weight = math.exp(-square / (2 * bump["width"] ** 2))
        x = [x[j] + weight * bump["vector"][j] for j in range(3)]
    return np.array(x)


def sample(path: Path, points: NDArray[np.float64], interpolator: int) -> NDArray[np.float64]:
    """Return image values at RAS mm, read by ITK, whose world is LPS."""
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
    return np.array([image.EvaluateAtPhysicalPoint((-x, -y, z), interpolator) for x, y, z in points.tolist()])


def test_the_csv_names_its_axes_and_has_200_points(folder: Path, points: NDArray[np.float64]) -> None:
    header = (folder / "points.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == (
        "point,baseline_x_ras_mm,baseline_y_ras_mm,baseline_z_ras_mm,"
        "followup_x_ras_mm,followup_y_ras_mm,followup_z_ras_mm"
    )
    assert points.shape == (200, 7)
    assert points[:, 0].tolist() == list(range(1, 201))


def test_the_points_to_look_for_are_those_of_the_baseline(folder: Path, points: NDArray[np.float64]) -> None:
    asked = read_points(folder / "baseline_points.csv")
    assert asked.names == tuple(str(number) for number in range(1, 201))
    np.testing.assert_array_equal(asked.points.numpy(), points[:, 1:4])


def test_each_pair_of_points_obeys_the_written_formula(record: dict, points: NDArray[np.float64]) -> None:
    computed = np.array([evaluate(record, y) for y in points[:, 4:]])
    np.testing.assert_allclose(computed, points[:, 1:4], atol=1e-6, rtol=0)


def test_inverting_the_formula_leads_back(record: dict, points: NDArray[np.float64]) -> None:
    for row in points[::10]:
        solution = root(lambda y, x=row[1:4]: evaluate(record, y) - x, x0=row[1:4], tol=1e-10)
        assert solution.success
        np.testing.assert_allclose(solution.x, row[4:], atol=1e-4, rtol=0)


def test_both_scans_look_alike_at_the_points_and_only_there(folder: Path, points: NDArray[np.float64]) -> None:
    baseline = sample(folder / "baseline.nii.gz", points[:, 1:4], sitk.sitkLinear)
    followup = sample(folder / "followup.nii.gz", points[:, 4:], sitk.sitkLinear)
    unmoved = sample(folder / "baseline.nii.gz", points[:, 4:], sitk.sitkLinear)
    agreement = np.corrcoef(baseline, followup)[0, 1]
    assert agreement > 0.97
    assert agreement > np.corrcoef(unmoved, followup)[0, 1] + 0.2


def test_the_points_are_inside_the_brain_in_both_and_on_the_same_tissue(
    folder: Path, points: NDArray[np.float64]
) -> None:
    baseline = sample(folder / "baseline_label.nii.gz", points[:, 1:4], sitk.sitkNearestNeighbor)
    followup = sample(folder / "followup_label.nii.gz", points[:, 4:], sitk.sitkNearestNeighbor)
    assert baseline.min() >= 1
    assert followup.min() >= 1
    assert (baseline == followup).mean() > 0.85


def test_the_map_never_folds(record: dict) -> None:
    rng = np.random.default_rng(0)
    known = record["jacobian_determinant"]
    assert 0 < known["minimum"] < 1 < known["maximum"]
    step = 1e-4
    for y in rng.uniform((-90, -125, -90), (90, 95, 105), (300, 3)):
        columns = [(evaluate(record, y + step * e) - evaluate(record, y - step * e)) / (2 * step) for e in np.eye(3)]
        determinant = np.linalg.det(np.stack(columns, axis=1))
        assert known["minimum"] - 0.01 < determinant < known["maximum"] + 0.01


def test_the_whole_brain_is_in_the_followup_and_its_volume_follows_the_determinant(folder: Path, record: dict) -> None:
    volumes = []
    for name in ("baseline_label", "followup_label"):
        label = sitk.ReadImage(str(folder / f"{name}.nii.gz"))
        array = sitk.GetArrayFromImage(label)
        volumes.append((array > 0).sum() * np.prod(label.GetSpacing()))
    assert not array[[0, -1]].any()
    assert not array[:, [0, -1]].any()
    assert not array[:, :, [0, -1]].any()
    known = record["jacobian_determinant"]
    assert known["minimum"] < volumes[0] / volumes[1] < known["maximum"]


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_jacobian_equals_differences_for_any_seed(seed: int) -> None:
    mapping = draw_map(np.random.default_rng(seed))
    points = np.random.default_rng(100 + seed).uniform(-70, 70, (20, 3))
    step = 1e-3 * np.eye(3)
    columns = [(mapping(points + e) - mapping(points - e)) / 2e-3 for e in step]
    np.testing.assert_allclose(mapping.determinant(points), np.linalg.det(np.stack(columns, axis=2)), rtol=1e-6)


def test_a_warp_that_would_fold_is_weakened(monkeypatch: pytest.MonkeyPatch) -> None:
    violent = draw_map(np.random.default_rng(0)).scaled(20)
    lattice = np.random.default_rng(1).uniform(-90, 90, (2000, 3))
    assert violent.determinant(lattice).min() < 0
    monkeypatch.setattr("monai_ext.demo.followup_pair.draw_map", lambda rng: violent)
    pair = make_followup_pair(load_brain(resolution=4), seed=0)
    assert pair.determinants[0] >= 0.3
    assert pair.mapping.determinant(lattice).min() > 0
