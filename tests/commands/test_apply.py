# SPDX-License-Identifier: Apache-2.0
"""The command apply: images, labels and points go where ITK takes them, and points come back."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray

from monai_ext.commands._fire import main
from monai_ext.data.point_file import read_points
from monai_ext.registration import TransformChain, WorldGrid, invert, write_transform
from tests.followup.toy_bundle import SHAPE, grid, places, voxels, world, write_points, write_scan
from tests.registration.anatomy import smooth_field, turned

FIXED, MOVING = grid(turn=-8), grid(turn=9, shift=(3, 2, -1), spacing=2.3)
LPS = np.array([-1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans, labels, points, and a transform with a field and an affine part, with its inverse."""
    tmp_path = tmp_path_factory.mktemp("files")
    write_scan(tmp_path / "fixed.nii.gz", FIXED, codes="LPS")
    write_scan(tmp_path / "moving.nii.gz", MOVING, seed=1)
    labels = np.digitize(voxels(1), [0]).astype(np.int16) * 300
    nib.save(nib.Nifti1Image(labels, MOVING), tmp_path / "label.nii.gz")
    write_points(tmp_path / "points.csv", world(FIXED, places(5)), diameter_mm=["1", "2", "3", "4", "5"])
    fixed = WorldGrid(SHAPE, torch.from_numpy(FIXED))
    chain = TransformChain([smooth_field(fixed, size=1.5), turned((3.0, -2.0, 4.0), shift=(2.0, -1.0, 1.0))])
    write_transform(tmp_path / "transform.h5", chain)
    write_transform(tmp_path / "inverse.h5", invert(chain, fixed, tolerance_mm=1.0).transform)
    return tmp_path


@pytest.fixture
def folder(files: Path, tmp_path: Path) -> Path:
    """A copy of the files, to be written to."""
    return Path(shutil.copytree(files, tmp_path / "copy"))


def run(folder: Path, *words: str, transform: str = "transform.h5") -> int:
    return main(["apply", "--transform", str(folder / transform), *words])


def resampled_by_itk(folder: Path, name: str, kind: int, padding: float) -> NDArray[Any]:
    moving, fixed = (sitk.ReadImage(str(folder / file), sitk.sitkFloat64) for file in (name, "fixed.nii.gz"))
    result = sitk.Resample(moving, fixed, sitk.ReadTransform(str(folder / "transform.h5")), kind, padding)
    return sitk.GetArrayFromImage(result)


@pytest.mark.parametrize(("words", "padding"), [([], None), (["--padding_value", "-1024"], -1024.0)])
def test_an_image_is_what_itk_makes_of_it(folder: Path, words: list[str], padding: float | None) -> None:
    given = ["--image", str(folder / "moving.nii.gz"), "--reference", str(folder / "fixed.nii.gz")]
    assert run(folder, *given, "--output", str(folder / "new" / "out.nii.gz"), *words) == 0
    least = float(np.asarray(nib.load(folder / "moving.nii.gz").dataobj).min())
    outside = least if padding is None else padding
    theirs = resampled_by_itk(folder, "moving.nii.gz", sitk.sitkLinear, outside)
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "new" / "out.nii.gz"), sitk.sitkFloat64))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert 0 < (theirs == outside).mean() < 0.5


def test_labels_keep_their_values(folder: Path) -> None:
    given = ["--label", str(folder / "label.nii.gz"), "--reference", str(folder / "fixed.nii.gz")]
    assert run(folder, *given, "--output", str(folder / "out.nii")) == 0
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "out.nii")))
    assert np.issubdtype(ours.dtype, np.integer)
    assert set(np.unique(ours)) == {0, 300}
    np.testing.assert_array_equal(ours, resampled_by_itk(folder, "label.nii.gz", sitk.sitkNearestNeighbor, 0))


@pytest.mark.parametrize("output", ["out.csv", "out.fcsv", "out.mrk.json"])
def test_points_go_where_itk_takes_them(folder: Path, output: str) -> None:
    given = ["--points", str(folder / "points.csv"), "--output_space", "LPS"]
    assert run(folder, *given, "--output", str(folder / output)) == 0
    theirs = sitk.ReadTransform(str(folder / "transform.h5"))
    expected = [theirs.TransformPoint((point * LPS).tolist()) for point in world(FIXED, places(5))]
    found = read_points(folder / output)
    np.testing.assert_allclose(found.points.numpy(), np.array(expected) * LPS, atol=1e-3)
    assert found.names == ("p0", "p1", "p2", "p3", "p4")
    assert "lps" in (folder / output).read_text(encoding="utf-8").lower()


def test_columns_of_points_are_kept(folder: Path) -> None:
    assert run(folder, "--points", str(folder / "points.csv"), "--output", str(folder / "out.csv")) == 0
    assert read_points(folder / "out.csv").extra["diameter_mm"] == ("1", "2", "3", "4", "5")


@pytest.mark.parametrize("back", [("--points_of", "moving"), ("--transform", "inverse.h5")])
def test_points_come_back(folder: Path, back: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert run(folder, "--points", "points.csv", "--output", "there.csv") == 0
    assert run(folder, "--points", "there.csv", "--output", "back.csv", *back) == 0
    there, found = (read_points(folder / name).points.numpy() for name in ("there.csv", "back.csv"))
    assert np.linalg.norm(there - world(FIXED, places(5)), axis=1).min() > 1
    np.testing.assert_allclose(found, world(FIXED, places(5)), atol=0.1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give one of --image, --label, --points, got none"),
        (["--image", "moving.nii.gz", "--label", "label.nii.gz"], "give one of .*, got image, label"),
        (["--image", "moving.nii.gz"], "--image needs --reference"),
        (["--points", "points.csv", "--reference", "fixed.nii.gz"], "--points has no use for --reference"),
        (["--points", "points.csv", "--output", "out.nii"], r"out\.nii: matched points are written to"),
        (["--points", "points.csv", "--output", "points.csv"], r"points\.csv: would overwrite the input"),
        (["--points", "points.csv", "--points_of", "both"], "points_of must be fixed or moving, got 'both'"),
        (["--image", "moving.nii.gz", "--reference", "fixed.nii.gz"], r"out\.csv: volumes are written as"),
        (["--label", "moving.nii.gz", "--reference", "fixed.nii.gz", "--output", "out.nii"], "no whole numbers"),
        (["--points", "points.csv", "--transform", "none.h5"], r"none\.h5: there is no such file"),
        (["--points", "points.csv", "--transform", "points.csv"], "cannot be read as an ITK transform"),
    ],
)
def test_wrong_input_is_one_line_and_changes_nothing(
    folder: Path, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["apply", "--transform", "transform.h5", "--output", "out.csv", *words]) == 1
    shown = capsys.readouterr().err
    assert re.search(told, shown)
    assert len(shown.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
