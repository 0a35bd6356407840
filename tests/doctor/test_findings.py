# SPDX-License-Identifier: Apache-2.0
"""Each kind of broken data is found, in the right file, with a remedy; healthy data gives no findings."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from monai_ext.doctor.examine import Examination, examine
from monai_ext.doctor.finding import RULES, Finding
from monai_ext.doctor.folder import find_cases
from monai_ext.errors import InputError

from .conftest import AFFINE, SHAPE, SHEARED, Seeded, a_label, add_case, an_image, write_datalist, write_nifti


def examined(root: Path, num_classes: int | None = None, allow_empty: bool = False) -> Examination:
    return examine(find_cases(root, num_classes), allow_empty)


def codes_of(examination: Examination) -> set[tuple[str, str]]:
    return {(one.code, one.file) for one in examination.findings}


def only(examination: Examination) -> Finding:
    (one,) = examination.findings
    return one


def test_healthy_data_gives_no_findings(healthy: Path) -> None:
    examination = examined(healthy)
    assert examination.findings == []
    assert examination.files == 6
    assert examination.values == (0, 1, 2)


def test_every_seeded_kind_is_found_in_its_file_and_nothing_else(seeded: Seeded) -> None:
    assert codes_of(examined(seeded.root)) == seeded.expected


def test_the_twelve_kinds_are_errors_with_a_remedy(seeded: Seeded) -> None:
    findings = examined(seeded.root).findings
    kinds = {one.code for one in findings}
    assert len(kinds) == 12
    assert all(one.is_error and len(one.remedy) > 10 and one.what for one in findings)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("images/truncated.nii.gz", "breaks off"),
        ("images/nan.nii.gz", "6 of 1680 voxels"),
        ("labels/moved.nii.gz", "24 x 28 x 20 voxels against 12 x 14 x 10"),
        ("images/sheared.nii.gz", "2.86 degrees"),
        ("images/conflict.nii.gz", "5 mm apart"),
        ("labels/range.nii.gz", "value 7 in 4 voxels; the classes are 0 to 2"),
        ("images/series.nii.gz", "12 x 14 x 10 x 2 is a series"),
        ("labels/float.nii.gz", "stored as float64"),
        ("images/leaky_train.nii.gz", "subject leaky_test is in training and in test"),
    ],
)
def test_what_is_wrong_is_told_with_figures(seeded: Seeded, file: str, words: str) -> None:
    assert words in " ".join(one.what for one in examined(seeded.root).findings if one.file == file)


def test_a_series_names_the_list_of_modalities_as_remedy(seeded: Seeded) -> None:
    remedy = next(one.remedy for one in examined(seeded.root).findings if one.file == "images/series.nii.gz")
    assert '"image": ["t1.nii.gz", "t2.nii.gz"]' in remedy


def test_shear_is_reported_exactly_where_simpleitk_refuses(tmp_path: Path) -> None:
    for shear in (5e-5, 5e-4):
        skewed = np.eye(4)
        skewed[0, 1] = shear
        path = tmp_path / f"images/{shear}.nii.gz"
        write_nifti(path, an_image(0) + shear, AFFINE @ skewed)
        try:
            sitk.ReadImage(str(path))
            opens = True
        except RuntimeError:
            opens = False
        found = {one.code for one in examined(tmp_path).findings if one.file.endswith(path.name)}
        assert found == (set() if opens else {"non_orthonormal"})


def test_allow_empty_accepts_a_label_without_foreground(healthy: Path) -> None:
    write_nifti(healthy / "labels/good1.nii.gz", np.zeros(SHAPE, np.uint8))
    assert only(examined(healthy)).code == "empty_label"
    assert examined(healthy, allow_empty=True).findings == []


def test_num_classes_goes_before_the_labels_of_the_list(healthy: Path) -> None:
    assert {one.code for one in examined(healthy, num_classes=1).findings} == {"label_out_of_range"}
    assert examined(healthy, num_classes=3).findings == []


def test_values_that_are_not_whole_are_out_of_range(healthy: Path) -> None:
    label = a_label().astype(np.float32)
    label[4, 4, 4] = 0.5
    write_nifti(healthy / "labels/good1.nii.gz", label)
    one = only(examined(healthy))
    assert (one.code, one.repairable) == ("label_out_of_range", False)
    assert "1 of 1680 values" in one.what


def test_complex_images_are_refused(healthy: Path) -> None:
    write_nifti(healthy / "images/good1.nii.gz", an_image(0).astype(np.complex64))
    assert only(examined(healthy)).code == "wrong_dtype"


def test_same_shape_elsewhere_is_a_mismatch_told_in_millimetres(healthy: Path) -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 6
    write_nifti(healthy / "labels/good1.nii.gz", a_label(), moved)
    one = only(examined(healthy))
    assert one.code == "grid_mismatch"
    assert "6 mm away" in one.what


def test_modalities_must_lie_on_one_grid(healthy: Path) -> None:
    write_nifti(healthy / "images/t2.nii.gz", an_image(9)[:, :, :5])
    item = {"image": ["images/good1.nii.gz", "images/t2.nii.gz"], "label": "labels/good1.nii.gz"}
    (healthy / "datalist.json").write_text(json.dumps({"training": [item]}), encoding="utf-8")
    found = {(one.code, one.file) for one in examined(healthy).findings if one.is_error}
    assert found == {("grid_mismatch", "images/t2.nii.gz")}


def test_a_template_sform_beside_a_scanner_qform_is_only_a_warning(healthy: Path) -> None:
    image = nib.load(healthy / "images/good1.nii.gz")
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), AFFINE)
    image.set_sform(AFFINE, 4)
    scanner = AFFINE.copy()
    scanner[0, 3] += 9
    image.set_qform(scanner, 1)
    nib.save(image, healthy / "images/good1.nii.gz")
    one = only(examined(healthy))
    assert (one.code, one.severity) == ("qform_sform_conflict", "warning")


@pytest.mark.parametrize("scale", [1e-5, 1e4])
def test_absurd_spacing_is_found(tmp_path: Path, scale: float) -> None:
    write_nifti(tmp_path / "a.nii.gz", an_image(0), np.diag([scale, scale, scale, 1]))
    assert only(examined(tmp_path)).code == "bad_spacing"


def test_pixdim_that_contradicts_the_sform_is_found(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", an_image(0))
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[80:84] = np.float32(9).tobytes()  # pixdim[1]
    (tmp_path / "a.nii").write_bytes(content)
    one = only(examined(tmp_path))
    assert (one.code, one.repairable) == ("bad_spacing", True)
    assert "9 x 1.5 x 3 mm" in one.what


def test_a_singular_affine_is_found(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", an_image(0))
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[280:296] = bytes(16)  # srow_x
    (tmp_path / "a.nii").write_bytes(content)
    one = only(examined(tmp_path))
    assert (one.code, one.repairable) == ("bad_spacing", False)


def test_a_constant_image_is_a_warning(healthy: Path) -> None:
    write_nifti(healthy / "images/good1.nii.gz", np.full(SHAPE, 3, np.int16))
    assert (only(examined(healthy)).code, only(examined(healthy)).severity) == ("constant_image", "warning")


def test_the_same_voxels_in_two_splits_are_found_whatever_the_header(healthy: Path) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] = 7
    write_nifti(healthy / "images/good3.nii.gz", an_image(0), shifted)  # the voxels of good1
    write_nifti(healthy / "labels/good3.nii.gz", a_label(), shifted)
    one = only(examined(healthy))
    assert (one.code, one.file, one.severity) == ("duplicate_content", "images/good1.nii.gz", "error")
    assert "test (images/good3.nii.gz)" in one.what


def test_the_same_file_in_two_splits_is_found(healthy: Path) -> None:
    item = {"image": "images/good1.nii.gz", "label": "labels/good1.nii.gz"}
    write_datalist(healthy, {"training": [item], "test": [item]})
    found = [one for one in examined(healthy).findings if one.is_error]
    assert [(one.code, one.file) for one in found] == [("duplicate_content", "images/good1.nii.gz")]


def test_a_subject_is_read_from_a_bids_name(tmp_path: Path) -> None:
    items = [add_case(tmp_path, f"sub-07_ses-{n}", n) for n in (1, 2)]
    for item in items:
        del item["subject"]
    write_datalist(tmp_path, {"training": items[:1], "validation": items[1:]})
    assert only(examined(tmp_path)).code == "duplicate_subject"


def test_entries_that_point_nowhere_are_found(healthy: Path) -> None:
    (healthy / "labels/good2.nii.gz").unlink()
    assert ("missing_file", "labels/good2.nii.gz") in codes_of(examined(healthy))


def test_pairs_that_no_list_names_are_a_warning(healthy: Path) -> None:
    add_case(healthy, "forgotten", 8)
    findings = examined(healthy).findings
    assert {(one.code, one.severity) for one in findings} == {("unlisted_file", "warning")}


def test_an_item_without_label_among_labelled_ones_is_unpaired(healthy: Path) -> None:
    item = add_case(healthy, "unlabelled", 8)
    (healthy / item.pop("label")).unlink()
    good = add_case(healthy, "good1", 0)
    write_datalist(healthy, {"training": [item, good]})
    assert ("unpaired_file", "images/unlabelled.nii.gz") in codes_of(examined(healthy))


def test_a_list_without_any_label_misses_none(healthy: Path) -> None:
    names = [{"image": f"images/good{n}.nii.gz"} for n in (1, 2, 3)]
    write_datalist(healthy, {"training": names})
    assert [one for one in examined(healthy).findings if one.is_error] == []


def test_folders_are_paired_by_name_and_macos_shadows_are_no_scans(healthy: Path) -> None:
    (healthy / "datalist.json").unlink()
    (healthy / "images/._good1.nii.gz").write_bytes(b"shadow")
    add_case(healthy, "case_0000", 7)
    (healthy / "labels/case_0000.nii.gz").rename(healthy / "labels/case.nii.gz")
    findings = examined(healthy).findings
    assert {(one.code, one.file) for one in findings} == {
        ("unpaired_file", "images/case_0000.nii.gz"),
        ("unpaired_file", "labels/case.nii.gz"),
    }
    assert any("nnU-Net" in one.remedy for one in findings)


def test_one_colour_picture_among_grey_ones_is_found(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(3):
        grey = np.random.default_rng(number).integers(0, 255, (8, 9), np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (8, 9, 3), np.uint8)).save(tmp_path / "colour.png")
    assert (only(examined(tmp_path)).code, only(examined(tmp_path)).file) == ("inconsistent_channels", "colour.png")


def test_both_ways_to_write_labels_are_understood(healthy: Path) -> None:
    for labels in ({"background": 0, "organ": 1}, {"0": "background", "1": "organ"}, ["background", "organ"]):
        content = json.loads((healthy / "datalist.json").read_text(encoding="utf-8"))
        (healthy / "datalist.json").write_text(json.dumps({**content, "labels": labels}), encoding="utf-8")
        assert {one.code for one in examined(healthy).findings} == {"label_out_of_range"}


def test_nothing_to_examine_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scan here"):
        find_cases(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        find_cases(tmp_path / "absent")


def test_sheared_affine_of_the_fixture_is_sheared() -> None:
    direction = SHEARED[:3, :3] / np.linalg.norm(SHEARED[:3, :3], axis=0)
    assert abs((direction.T @ direction)[0, 1]) > 0.01


def test_every_rule_names_severity_meaning_and_remedy() -> None:
    assert all(rule.severity in ("error", "warning") and rule.meaning and rule.remedy for rule in RULES.values())
