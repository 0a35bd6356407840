# SPDX-License-Identifier: Apache-2.0
"""NRRD, MHA, pictures and DICOM series are examined and mended like NIfTI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from monai_ext.doctor.examine import Examination, examine
from monai_ext.doctor.folder import find_cases
from monai_ext.doctor.repair import repair

from .conftest import AFFINE, a_label, an_image, write_nifti


def examined(root: Path, num_classes: int | None = None) -> Examination:
    return examine(find_cases(root, num_classes))


def codes(root: Path, num_classes: int | None = None) -> list[tuple[str, str]]:
    return [(one.code, one.file) for one in examined(root, num_classes).findings]


def write_itk(path: Path, array: np.ndarray) -> None:
    """Write (x, y, z) voxels on the grid of AFFINE."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing((1.5, 1.5, 3.0))
    image.SetOrigin((-20.0, 30.0, 5.0))
    image.SetDirection((1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def grey(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (20, 16), np.uint8)


def disc() -> np.ndarray:
    rows, columns = np.mgrid[:20, :16]
    return ((rows - 9) ** 2 + (columns - 8) ** 2 < 30).astype(np.uint8)


def write_series(folder: Path, skip: tuple[int, ...] = ()) -> None:
    """Write ten DICOM slices 3 mm apart, without those of ``skip``."""
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    volume = np.random.default_rng(0).integers(0, 900, (10, 14, 12)).astype(np.int16)
    for number in sorted(set(range(10)) - set(skip)):
        image = sitk.GetImageFromArray(volume[number])
        image.SetSpacing((1.5, 1.5))
        tags = {
            "0008|0060": "CT",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0032": f"0\\0\\{3 * number}",
            "0020|0013": str(number + 1),
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.1.{number + 1}",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number:03}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_an_itk_image_with_a_nifti_label_on_its_grid_is_healthy(tmp_path: Path, ending: str) -> None:
    write_itk(tmp_path / f"images/a{ending}", an_image(0))
    write_nifti(tmp_path / "labels/a.nii.gz", a_label())
    assert codes(tmp_path) == []


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_itk_files_are_mended_in_their_own_format(tmp_path: Path, ending: str) -> None:
    image = an_image(0)
    image[0, 0, 0] = np.nan
    write_itk(tmp_path / f"data/images/a{ending}", image)
    write_itk(tmp_path / f"data/labels/a{ending}", a_label().astype(np.float32))
    examination = examined(tmp_path / "data")
    assert [one.code for one in examination.findings] == ["nan_voxels", "wrong_dtype"]
    repair(examination, tmp_path / "out")
    assert codes(tmp_path / "out") == []
    label = sitk.ReadImage(str(tmp_path / f"out/labels/a{ending}"))
    assert label.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label).T, a_label())
    assert (label.GetSpacing(), label.GetOrigin()) == ((1.5, 1.5, 3.0), (-20.0, 30.0, 5.0))


def test_a_healthy_header_with_detached_voxels_is_copied_with_them(tmp_path: Path) -> None:
    write_itk(tmp_path / "data/a.mhd", an_image(0))
    repair(examined(tmp_path / "data"), tmp_path / "out")
    assert codes(tmp_path / "out") == []
    (tmp_path / "data/a.raw").unlink()
    assert codes(tmp_path / "data") == [("truncated", "a.mhd")]


def test_a_sheared_mha_is_mended(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(an_image(0).T)
    image.SetDirection((1, 0.1, 0, 0, 1, 0, 0, 0, 1))
    (tmp_path / "data").mkdir()
    sitk.WriteImage(image, str(tmp_path / "data/a.mha"))
    examination = examined(tmp_path / "data")
    assert [one.code for one in examination.findings] == ["non_orthonormal"]
    repair(examination, tmp_path / "out")
    direction = np.reshape(sitk.ReadImage(str(tmp_path / "out/a.mha")).GetDirection(), (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-9)


def test_vector_voxels_are_refused_with_the_way_out(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).random((4, 5, 6, 2), np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(tmp_path / "a.nrrd"))
    (one,) = examined(tmp_path).findings
    assert (one.code, "one file for each channel" in one.remedy) == ("wrong_dtype", True)


def test_healthy_pictures_give_no_findings(tmp_path: Path) -> None:
    for number, ending in enumerate((".png", ".bmp", ".tif", ".tiff")):
        write_picture(tmp_path / f"images/{number}{ending}", grey(number))
        write_picture(tmp_path / f"labels/{number}.png", disc())
    write_picture(tmp_path / "images/deep.png", grey(7).astype(np.uint16) * 200)
    write_picture(tmp_path / "labels/deep.tif", disc())
    assert codes(tmp_path, num_classes=1) == []


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_black_and_white_masks_become_classes(tmp_path: Path, ending: str) -> None:
    write_picture(tmp_path / "data/images/a.png", grey(0))
    write_picture(tmp_path / f"data/labels/a{ending}", disc() * 255)
    examination = examined(tmp_path / "data", num_classes=1)
    assert [(one.code, one.severity) for one in examination.findings] == [("mask_0_255", "warning")]
    repair(examination, tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/labels/a.png")), disc())
    assert codes(tmp_path / "out", num_classes=1) == []


def test_a_volume_of_0_and_255_is_an_error(tmp_path: Path) -> None:
    write_nifti(tmp_path / "images/a.nii.gz", an_image(0))
    write_nifti(tmp_path / "labels/a.nii.gz", (a_label() > 0).astype(np.uint8) * 255)
    (one,) = examined(tmp_path).findings
    assert (one.code, one.severity, one.repairable) == ("mask_0_255", "error", True)


def test_classes_in_a_jpeg_are_a_warning(tmp_path: Path) -> None:
    write_picture(tmp_path / "images/a.png", grey(0))
    write_picture(tmp_path / "labels/a.jpg", grey(1) // 8)
    (one,) = examined(tmp_path).findings
    assert (one.code, one.severity, one.repairable) == ("wrong_dtype", "warning", False)


def test_a_label_of_three_equal_channels_is_mended_and_a_coloured_one_is_not(tmp_path: Path) -> None:
    for name in ("equal", "coloured"):
        write_picture(tmp_path / f"data/images/{name}.png", grey(len(name)))
    write_picture(tmp_path / "data/labels/equal.png", np.stack([disc()] * 3, axis=-1))
    write_picture(tmp_path / "data/labels/coloured.png", np.stack([disc(), 0 * disc(), disc()], axis=-1))
    examination = examined(tmp_path / "data")
    assert {(one.code, one.file, one.repairable) for one in examination.findings} == {
        ("wrong_dtype", "labels/equal.png", True),
        ("wrong_dtype", "labels/coloured.png", False),
    }
    repair(examination, tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/labels/equal.png")), disc())
    assert not (tmp_path / "out/images/coloured.png").exists()


def test_three_equal_channels_of_black_and_white_are_mended_in_one_go(tmp_path: Path) -> None:
    write_picture(tmp_path / "data/images/a.png", grey(0))
    write_picture(tmp_path / "data/labels/a.png", np.stack([disc() * 255] * 3, axis=-1))
    repair(examined(tmp_path / "data", num_classes=1), tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/labels/a.png")), disc())


def test_a_palette_image_is_turned_into_colour_and_a_palette_label_is_fine(tmp_path: Path) -> None:
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 16, 3), np.uint8)).quantize(7)
    (tmp_path / "data/images").mkdir(parents=True)
    colour.save(tmp_path / "data/images/a.png")
    label = Image.fromarray(disc()).convert("P")
    (tmp_path / "data/labels").mkdir()
    label.save(tmp_path / "data/labels/a.png")
    assert codes(tmp_path / "data") == [("wrong_dtype", "images/a.png")]
    repair(examined(tmp_path / "data"), tmp_path / "out")
    expected = np.asarray(colour.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/images/a.png")), expected)


def test_a_picture_label_of_another_size_is_left_out(tmp_path: Path) -> None:
    write_picture(tmp_path / "data/images/a.png", grey(0))
    write_picture(tmp_path / "data/labels/a.png", disc()[:, :10])
    examination = examined(tmp_path / "data")
    (one,) = examination.findings
    assert (one.code, one.repairable) == ("grid_mismatch", False)
    assert "10 x 20 voxels against 16 x 20" in one.what


def test_an_empty_slice_is_only_a_warning(tmp_path: Path) -> None:
    write_picture(tmp_path / "images/a.png", grey(0))
    write_picture(tmp_path / "labels/a.png", 0 * disc())
    (one,) = examined(tmp_path).findings
    assert (one.code, one.severity) == ("empty_label", "warning")


def test_a_dicom_series_is_one_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "patient")
    examination = examined(tmp_path)
    assert (examination.files, examination.findings) == (1, [])
    assert examined(tmp_path / "patient").files == 1


def test_missing_empty_and_foreign_slices_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "gap", skip=(4,))
    write_series(tmp_path / "zero")
    (tmp_path / "zero/003.dcm").write_bytes(b"")
    write_series(tmp_path / "noise")
    (tmp_path / "noise/003.dcm").write_bytes(np.random.default_rng(0).bytes(2000))
    found = {(one.code, one.file) for one in examined(tmp_path).errors}
    assert found == {("uneven_slices", "gap"), ("zero_byte", "zero"), ("uneven_slices", "noise")}


def test_a_healthy_series_is_copied_and_the_list_points_to_it(tmp_path: Path) -> None:
    write_series(tmp_path / "data/images/a")
    write_series(tmp_path / "data/images/b", skip=(5,))
    items = [{"image": "images/a"}, {"image": "images/b"}]
    (tmp_path / "data/datalist.json").write_text(json.dumps({"test": items}), encoding="utf-8")
    outcome = repair(examined(tmp_path / "data"), tmp_path / "out")
    assert json.loads((tmp_path / "out/datalist.json").read_text(encoding="utf-8"))["test"] == items[:1]
    assert len(list((tmp_path / "out/images/a").iterdir())) == 10
    assert [row["files"] for row in outcome.quarantine] == [["images/b"]]


def test_affine_of_the_helper_is_the_fixtures(tmp_path: Path) -> None:
    from monai_ext.doctor.reading import read_scan

    write_itk(tmp_path / "a.mha", an_image(0))
    np.testing.assert_allclose(read_scan(tmp_path / "a.mha").affine, AFFINE, atol=1e-9)
