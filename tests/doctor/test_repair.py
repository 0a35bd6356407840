# SPDX-License-Identifier: Apache-2.0
"""The mended copy is right, the source is untouched, and what cannot be mended is left out by name."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from monai_ext.doctor.examine import examine
from monai_ext.doctor.folder import find_cases
from monai_ext.doctor.repair import Repair, check_output, repair
from monai_ext.errors import InputError
from monai_ext.files import sha256_of

from .conftest import AFFINE, SHAPE, SHEARED, Seeded, a_label, an_image, write_nifti


def mended(root: Path, out: Path) -> Repair:
    return repair(examine(find_cases(root)), check_output(out, root))


def hashes(root: Path) -> dict[str, str]:
    return {str(path): sha256_of(path) for path in sorted(root.rglob("*")) if path.is_file()}


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_the_copy_is_clean_and_the_source_untouched(seeded: Seeded, tmp_path: Path) -> None:
    before = hashes(seeded.root)
    mended(seeded.root, tmp_path / "out")
    assert hashes(seeded.root) == before
    assert examine(find_cases(tmp_path / "out")).findings == []


def test_what_cannot_be_mended_is_left_out_by_name(seeded: Seeded, tmp_path: Path) -> None:
    outcome = mended(seeded.root, tmp_path / "out")
    left_out = {file for row in outcome.quarantine for file in row["files"] if file.startswith("images/")}
    names = ("truncated", "empty", "range", "series", "rgb", "zero", "leaky_train", "lonely")
    assert left_out == {f"images/{name}.nii.gz" for name in names}
    items = json.loads((tmp_path / "out/datalist.json").read_text(encoding="utf-8"))["training"]
    assert {item["subject"] for item in items} == {"good", "nan", "moved", "sheared", "conflict", "singleton", "float"}
    written = {path.name for path in (tmp_path / "out/images").iterdir()}
    assert written == {Path(item["image"]).name for item in items} | {"good_too.nii.gz", "leaky_test.nii.gz"}


def test_the_copied_list_keeps_everything_else(seeded: Seeded, tmp_path: Path) -> None:
    mended(seeded.root, tmp_path / "out")
    content = json.loads((tmp_path / "out/datalist.json").read_text(encoding="utf-8"))
    assert content["name"] == "seeded"
    assert content["labels"]["2"] == "lesion"
    assert content["test"][0]["subject"] == "leaky_test"


def test_healthy_files_are_copied_bit_for_bit(healthy: Path, tmp_path: Path) -> None:
    (healthy / "LICENSE").write_text("terms", encoding="utf-8")
    outcome = mended(healthy, tmp_path / "out")
    assert outcome.repaired == outcome.quarantine == []
    for name in ("images/good1.nii.gz", "labels/good3.nii.gz", "LICENSE"):
        assert sha256_of(healthy / name) == sha256_of(tmp_path / "out" / name)


def test_polar_decomposition_keeps_spacing_and_centre_and_simpleitk_opens_it(seeded: Seeded, tmp_path: Path) -> None:
    mended(seeded.root, tmp_path / "out")
    path = tmp_path / "out/images/sheared.nii.gz"
    affine = nib.load(path).affine
    spacing = np.linalg.norm(SHEARED[:3, :3], axis=0)
    direction = affine[:3, :3] / spacing
    centre = np.array([*(np.array(SHAPE) - 1) / 2, 1])
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(affine @ centre, SHEARED @ centre, atol=1e-4)
    np.testing.assert_allclose(sitk.ReadImage(str(path)).GetSpacing(), spacing, rtol=1e-5)
    np.testing.assert_array_equal(voxels(path), an_image(51))
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(seeded.root / "images/sheared.nii.gz"))


def test_polar_decomposition_is_the_nearest_of_many_rotations() -> None:
    from scipy.spatial.transform import Rotation

    from monai_ext.doctor.geometry import nearest_orthonormal, spacing_of

    spacing = spacing_of(SHEARED)
    wanted = SHEARED[:3, :3] / spacing
    best = nearest_orthonormal(SHEARED, SHAPE)[:3, :3] / spacing
    turns = Rotation.from_rotvec(np.random.default_rng(0).normal(0, 0.05, (500, 3))).as_matrix()
    assert np.linalg.norm(best - wanted) <= np.linalg.norm(turns @ best - wanted, axis=(1, 2)).min()


def test_nan_is_filled_with_the_smallest_and_infinity_with_the_largest_value(seeded: Seeded, tmp_path: Path) -> None:
    mended(seeded.root, tmp_path / "out")
    array = voxels(tmp_path / "out/images/nan.nii.gz")
    whole = an_image(50)
    bad = np.zeros(SHAPE, bool)
    bad[0, 0, :5] = bad[1, 1, 1] = True
    np.testing.assert_array_equal(array[~bad], whole[~bad])
    assert (array[0, 0, :5] == whole[~bad].min()).all()
    assert array[1, 1, 1] == whole[~bad].max()


def test_nan_in_a_label_becomes_background(healthy: Path, tmp_path: Path) -> None:
    label = a_label().astype(np.float32)
    label[0, 0, 0] = label[4, 4, 4] = np.nan
    write_nifti(healthy / "labels/good1.nii.gz", label)
    mended(healthy, tmp_path / "out")
    array = voxels(tmp_path / "out/labels/good1.nii.gz")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, np.nan_to_num(label))


def test_label_values_survive_the_change_of_type(seeded: Seeded, tmp_path: Path) -> None:
    mended(seeded.root, tmp_path / "out")
    array = voxels(tmp_path / "out/labels/float.nii.gz")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, a_label())


def test_a_finer_label_is_resampled_onto_the_image(seeded: Seeded, tmp_path: Path) -> None:
    mended(seeded.root, tmp_path / "out")
    label = nib.load(tmp_path / "out/labels/moved.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), a_label())
    np.testing.assert_allclose(label.affine, AFFINE, atol=1e-5)


def test_a_flipped_label_is_flipped_back(healthy: Path, tmp_path: Path) -> None:
    flip = np.eye(4)
    flip[0, 0], flip[0, 3] = -1, SHAPE[0] - 1
    write_nifti(healthy / "labels/good1.nii.gz", a_label()[::-1], AFFINE @ flip)
    mended(healthy, tmp_path / "out")
    np.testing.assert_array_equal(voxels(tmp_path / "out/labels/good1.nii.gz"), a_label())


def test_a_label_that_has_lost_its_position_takes_the_images(healthy: Path, tmp_path: Path) -> None:
    write_nifti(healthy / "labels/good1.nii.gz", a_label(), np.eye(4))
    mended(healthy, tmp_path / "out")
    label = nib.load(tmp_path / "out/labels/good1.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), a_label())
    np.testing.assert_allclose(label.affine, AFFINE, atol=1e-5)


def test_a_label_that_lies_elsewhere_is_left_out(healthy: Path, tmp_path: Path) -> None:
    far = AFFINE.copy()
    far[:3, 3] += 500
    write_nifti(healthy / "labels/good1.nii.gz", a_label(), far)
    (row,) = mended(healthy, tmp_path / "out").quarantine
    assert "0% of the foreground" in row["reasons"][0]
    assert not (tmp_path / "out/images/good1.nii.gz").exists()
    assert examine(find_cases(tmp_path / "out")).findings == []


def test_qform_and_sform_agree_afterwards(seeded: Seeded, tmp_path: Path) -> None:
    mended(seeded.root, tmp_path / "out")
    header = nib.load(tmp_path / "out/images/conflict.nii.gz").header
    np.testing.assert_allclose(header.get_qform(), AFFINE, atol=1e-4)
    np.testing.assert_allclose(header.get_sform(), AFFINE, atol=1e-5)


def test_a_trailing_axis_of_one_is_dropped(seeded: Seeded, tmp_path: Path) -> None:
    mended(seeded.root, tmp_path / "out")
    np.testing.assert_array_equal(voxels(tmp_path / "out/images/singleton.nii.gz"), an_image(53))


def test_scaled_integers_keep_their_values(healthy: Path, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), SHEARED)
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, healthy / "images/good1.nii.gz")
    write_nifti(healthy / "labels/good1.nii.gz", a_label(), SHEARED)
    before = voxels(healthy / "images/good1.nii.gz")
    mended(healthy, tmp_path / "out")
    np.testing.assert_array_equal(voxels(tmp_path / "out/images/good1.nii.gz"), before)


def test_several_faults_of_one_case_are_mended_together(healthy: Path, tmp_path: Path) -> None:
    array = an_image(3)
    array[2, 2, 2] = np.nan
    write_nifti(healthy / "images/good1.nii.gz", array[..., None], SHEARED)
    write_nifti(healthy / "labels/good1.nii.gz", a_label().astype(np.float32)[..., None], SHEARED)
    outcome = mended(healthy, tmp_path / "out")
    assert [len(row["done"]) for row in outcome.repaired] == [3, 3]
    assert examine(find_cases(tmp_path / "out")).findings == []
    np.testing.assert_array_equal(voxels(tmp_path / "out/labels/good1.nii.gz"), a_label())


def test_files_outside_the_folder_are_copied_into_the_new_one(healthy: Path, tmp_path: Path) -> None:
    write_nifti(tmp_path / "elsewhere/a.nii.gz", an_image(7))
    item = {"image": str(tmp_path / "elsewhere/a.nii.gz"), "label": "../elsewhere/b.nii.gz"}
    write_nifti(tmp_path / "elsewhere/b.nii.gz", a_label().astype(np.float32))
    (healthy / "datalist.json").write_text(json.dumps({"training": [item]}), encoding="utf-8")
    mended(healthy, tmp_path / "out")
    (row,) = json.loads((tmp_path / "out/datalist.json").read_text(encoding="utf-8"))["training"]
    assert all((tmp_path / "out" / row[key]).is_file() and ".." not in row[key] for key in ("image", "label"))
    assert voxels(tmp_path / "out" / row["label"]).dtype == np.uint8


def test_the_output_must_be_new_and_elsewhere(healthy: Path, tmp_path: Path) -> None:
    for inside in (healthy, healthy / "mended"):
        with pytest.raises(InputError, match="inside the examined folder"):
            check_output(inside, healthy)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x", encoding="utf-8")
    for taken in (tmp_path / "full", tmp_path / "full/file"):
        with pytest.raises(InputError, match="not an empty folder"):
            check_output(taken, healthy)
    (tmp_path / "link").symlink_to(healthy)
    with pytest.raises(InputError, match="inside the examined folder"):
        check_output(tmp_path / "link/mended", healthy)


def test_a_repair_that_does_not_hold_is_not_declared(
    seeded: Seeded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_ext.doctor.mend._fill", lambda scan, is_label: "nothing, really")
    outcome = mended(seeded.root, tmp_path / "out")
    reasons = [reason for row in outcome.quarantine for reason in row["reasons"]]
    assert any("the repair failed: nan_voxels" in reason for reason in reasons)
    assert not (tmp_path / "out/images/nan.nii.gz").exists()
