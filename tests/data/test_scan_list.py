# SPDX-License-Identifier: Apache-2.0
"""Scans without labels, and pairs of scans with points: which are found, and what is said where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_ext.data import load_pair_list, load_scan_list, lymph_node_scans
from monai_ext.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    touch(*(tmp_path / "images" / f"{name}.nii.gz" for name in "abcde"))
    return tmp_path


def cases(items: list[dict[str, Any]]) -> set[str]:
    return {item["case"] for item in items}


@pytest.mark.parametrize("part", ["", "images"])
def test_a_folder_is_split_by_subject_and_needs_no_labels(scans: Path, part: str) -> None:
    training, validation = (load_scan_list(scans / part, section) for section in ("training", "validation"))
    assert (len(training), len(validation)) == (4, 1)
    assert cases(training) | cases(validation) == set("abcde")
    assert load_scan_list(scans / part, "test") == load_scan_list(scans / part, "inference") == validation
    assert Path(training[0]["image"]).is_file()


def test_no_subject_is_on_both_sides_of_the_split(scans: Path) -> None:
    listed = [{"image": f"images/{name}.nii.gz", "subject": "twin" if name in "ab" else name} for name in "abcde"]
    write(scans / "datalist.json", {"training": listed})
    for seed in range(8):
        sides = [load_scan_list(scans, section, 0.4, seed) for section in ("training", "validation")]
        subjects = [{item["subject"] for item in side} for side in sides]
        assert not subjects[0] & subjects[1]


def test_a_single_scan_trains_and_validates(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "only.nii.gz")
    assert load_scan_list(tmp_path, "training") == load_scan_list(tmp_path, "validation")


def test_a_data_list_may_have_labels_which_are_not_looked_at(scans: Path) -> None:
    listed = [{"image": "images/a.nii.gz", "label": "nowhere.nii.gz"}, "images/b.nii.gz"]
    found = load_scan_list(
        write(scans / "list.json", {"training": listed, "validation": ["images/c.nii.gz"]}), "training"
    )
    assert [(item["case"], "label" in item) for item in found] == [("a", False), ("b", False)]


def test_a_body_mask_is_found_and_missed(scans: Path) -> None:
    file = write(scans / "list.json", {"training": [{"image": "images/a.nii.gz", "body": "body.nii.gz"}]})
    with pytest.raises(InputError, match=r"body\.nii\.gz.*list\.json"):
        load_scan_list(file, "training")
    touch(scans / "body.nii.gz")
    assert load_scan_list(file, "training")[0]["body"] == str(scans / "body.nii.gz")


def test_missing_scans_are_named(scans: Path) -> None:
    (scans / "empty").mkdir()
    with pytest.raises(InputError, match="no scan here"):
        load_scan_list(scans / "empty", "training")
    with pytest.raises(InputError, match=r"1 of 1 files are missing.*x\.nii"):
        load_scan_list(write(scans / "list.json", {"training": ["x.nii"], "validation": ["x.nii"]}), "training")
    with pytest.raises(ValueError, match="section"):
        load_scan_list(scans, "all")


PAIR = {"fixed": "images/a.nii.gz", "moving": "images/b.nii.gz", "points": "points.csv"}


@pytest.fixture
def listed(scans: Path) -> Path:
    touch(scans / "points.csv")
    write(scans / "pairs.json", {"test": [{**PAIR, "case": "one", "subject": "s"}, PAIR, PAIR]})
    return scans


@pytest.mark.parametrize("place", ["", "pairs.json"])
@pytest.mark.parametrize("section", ["test", "inference"])
def test_pairs_get_names_of_their_own(listed: Path, place: str, section: str) -> None:
    found = load_pair_list(listed / place, section)
    assert [item["case"] for item in found] == ["one", "a_to_b", "a_to_b-2"]
    first = found[0]
    assert (Path(first["image"]).name, Path(first["reference"]).name) == ("b.nii.gz", "a.nii.gz")
    assert (Path(first["points"]).name, first["subject"]) == ("points.csv", "s")


def test_the_list_may_lie_elsewhere_and_validation_takes_single_scans(listed: Path, tmp_path: Path) -> None:
    other = tmp_path / "images"
    assert len(load_pair_list(other, "test", pairs=listed / "pairs.json")) == 3
    assert "reference" not in load_pair_list(listed, "validation")[0]


def test_without_pairs_single_scans_are_tested_on_and_inference_is_refused(scans: Path) -> None:
    assert load_pair_list(scans, "test") == load_scan_list(scans, "test")
    with pytest.raises(InputError, match=r"pairs\.json"):
        load_pair_list(scans, "inference")


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"fixed": "images/a.nii.gz", "moving": "images/b.nii.gz"}, "points"),
        ({**PAIR, "moving": "images/z.nii.gz"}, r"z\.nii\.gz"),
        ("images/a.nii.gz", "needs paths"),
    ],
)
def test_a_wrong_pair_is_named(listed: Path, entry: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        load_pair_list(listed, "test", pairs=write(listed / "pairs.json", {"test": [entry]}))


def test_two_cases_of_one_name_and_broken_files_are_refused(listed: Path) -> None:
    with pytest.raises(InputError, match="'same'"):
        load_pair_list(write(listed / "pairs.json", {"test": [{**PAIR, "case": "same"}] * 2}))
    (listed / "pairs.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not a JSON file"):
        load_pair_list(listed)


def test_lymph_node_scans_are_found_in_the_folders_of_the_archive(tmp_path: Path) -> None:
    for patient in ("ABD_LYMPH_001", "ABD_LYMPH_002", "MED_LYMPH_001"):
        series = tmp_path / "CT Lymph Nodes" / patient / "study"
        touch(*(series / "ct" / f"{number}.dcm" for number in range(4)), series / "seg" / "1.dcm")
    items = lymph_node_scans(tmp_path, "training", 0.3) + lymph_node_scans(tmp_path, "validation", 0.3)
    assert cases(items) == {"ABD_LYMPH_001", "ABD_LYMPH_002", "MED_LYMPH_001"}
    assert {Path(item["image"]).name for item in items} == {"ct"}


def test_lymph_node_scans_as_plain_files_are_a_scan_list(scans: Path) -> None:
    assert lymph_node_scans(scans, "training", 0.2) == load_scan_list(scans, "training", 0.2)
