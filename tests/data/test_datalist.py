# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_ext.data import load_datalist
from monai_ext.data._sections import complete_items
from monai_ext.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def pairs(
    folder: Path, names: list[str], suffix: str = ".nii.gz", images: str = "images", labels: str = "labels"
) -> None:
    touch(*[folder / part / f"{name}{suffix}" for part in (images, labels) for name in names])


def names(items: list[dict]) -> list[str]:
    return [item["case"] for item in items]


def test_images_and_labels_are_paired_by_name(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.b.nii.gz", tmp_path / "labels" / "a.b.nrrd")
    touch(tmp_path / "images" / "c.png", tmp_path / "labels" / "c.png", tmp_path / "images" / ".hidden.png")
    (item,) = load_datalist(tmp_path, "training", val_fraction=0)[:1]
    assert item == {
        "image": str(tmp_path / "images" / "a.b.nii.gz"),
        "label": str(tmp_path / "labels" / "a.b.nrrd"),
        "subject": "a.b",
        "site": "",
        "case": "a.b",
    }
    assert names(load_datalist(tmp_path, "training", val_fraction=0)) == ["a.b", "c"]


def test_every_file_without_partner_is_named_in_one_line(tmp_path: Path) -> None:
    pairs(tmp_path, ["a"])
    touch(tmp_path / "images" / "b.nii.gz", tmp_path / "labels" / "c.nii.gz")
    with pytest.raises(InputError, match=r"2 files .* images/b.nii.gz, labels/c.nii.gz") as error:
        load_datalist(tmp_path, "training")
    assert "\n" not in str(error.value)


def test_the_split_is_fixed_by_seed_and_names_and_disjoint(tmp_path: Path) -> None:
    pairs(tmp_path, [f"case{i}" for i in range(10)])
    training, validation = (load_datalist(tmp_path, part) for part in ("training", "validation"))
    assert sorted(names(training) + names(validation)) == [f"case{i}" for i in range(10)]
    assert len(validation) == 2
    assert load_datalist(tmp_path, "validation") == validation
    splits = {tuple(names(load_datalist(tmp_path, "validation", seed=seed))) for seed in range(8)}
    assert len(splits) > 1
    assert len(load_datalist(tmp_path, "validation", val_fraction=0.5)) == 5
    assert len(load_datalist(tmp_path, "validation", val_fraction=0.99)) == 9


def test_a_subject_is_never_on_both_sides(tmp_path: Path) -> None:
    touch(*[tmp_path / f"{i}.nii.gz" for i in range(12)])
    items = [{"image": f"{i}.nii.gz", "label": f"{i}.nii.gz", "subject": i // 3} for i in range(12)]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items}), encoding="utf-8")
    sides = [{item["subject"] for item in load_datalist(tmp_path, part)} for part in ("training", "validation")]
    assert sides[0] | sides[1] == {"0", "1", "2", "3"}
    assert sides[0] & sides[1] == set()


def test_test_is_its_own_folder_or_validation(tmp_path: Path) -> None:
    pairs(tmp_path, ["a", "b", "c"])
    assert load_datalist(tmp_path, "test") == load_datalist(tmp_path, "validation")
    pairs(tmp_path, ["d"], images="images_test", labels="labels_test")
    assert names(load_datalist(tmp_path, "test")) == ["d"]
    assert names(load_datalist(tmp_path, "inference")) == ["d"]


def test_a_decathlon_list(tmp_path: Path) -> None:
    touch(*[tmp_path / "imagesTr" / f"{i}.nii.gz" for i in range(3)], tmp_path / "imagesTs" / "9.nii.gz")
    items = [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./imagesTr/{i}.nii.gz"} for i in range(3)]
    content = {"name": "x", "training": items, "test": ["./imagesTs/9.nii.gz"]}
    (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    training = load_datalist(tmp_path / "dataset.json", "training")
    assert Path(training[0]["image"]).is_absolute()
    assert load_datalist(tmp_path, "inference")[0]["image"] == str(tmp_path / "imagesTs" / "9.nii.gz")
    assert load_datalist(tmp_path, "test") == load_datalist(tmp_path, "validation")  # the list's has no labels


def test_listed_sections_sites_and_modalities_are_kept(tmp_path: Path) -> None:
    touch(*[tmp_path / name for name in ("t1.nii.gz", "t2.nii.gz", "y.nii.gz")])
    item = {"image": ["t1.nii.gz", str(tmp_path / "t2.nii.gz")], "label": "y.nii.gz", "site": "north", "fold": 3}
    (tmp_path / "datalist.json").write_text(
        json.dumps({"training": [item], "validation": [{**item, "subject": 7}]}), encoding="utf-8"
    )
    (training,) = load_datalist(tmp_path, "training")
    (validation,) = load_datalist(tmp_path, "validation")
    assert training["image"] == [str(tmp_path / "t1.nii.gz"), str(tmp_path / "t2.nii.gz")]
    assert (training["site"], training["fold"], training["subject"]) == ("north", 3, "t1")
    assert validation["subject"] == "7"
    assert training["case"] != validation["case"]


def test_cases_of_equal_file_names_get_names_of_their_own(tmp_path: Path) -> None:
    files = [f"{part}/sub-{i}/t 1.nii.gz" for part in ("x", "y") for i in range(2)]
    touch(*[tmp_path / file for file in files])
    (tmp_path / "datalist.json").write_text(json.dumps({"training": files, "validation": [files[0]]}), encoding="utf-8")
    cases = names(load_datalist(tmp_path, "training")) + names(load_datalist(tmp_path, "validation"))
    assert cases == ["x_sub-0_t_1", "x_sub-1_t_1", "y_sub-0_t_1", "y_sub-1_t_1", "x_sub-0_t_1-2"]


def test_very_many_equal_names_are_numbered_one_after_the_other(tmp_path: Path) -> None:
    items = [{"image": str(tmp_path / "x-3.nii.gz")}, *({"image": str(tmp_path / "x.nii.gz")} for _ in range(20_000))]
    cases = names(complete_items(items, tmp_path))
    assert cases[:4] == ["x-3", "x", "x-2", "x-4"]
    assert len(set(cases)) == len(cases)


def test_inference_takes_a_folder_a_file_or_a_dicom_series(tmp_path: Path) -> None:
    touch(tmp_path / "scans" / "b.nii.gz", tmp_path / "scans" / "a.mha", tmp_path / "scans" / "notes.txt")
    touch(tmp_path / "series" / "1.dcm", tmp_path / "series" / "2.dcm")
    touch(tmp_path / "many" / "one" / "1.dcm", tmp_path / "many" / "two" / "1.IMA", tmp_path / "many" / "no" / "a.txt")
    assert names(load_datalist(tmp_path / "scans", "inference")) == ["a", "b"]
    assert "label" not in load_datalist(tmp_path / "scans", "inference")[0]
    assert names(load_datalist(tmp_path / "scans" / "b.nii.gz", "inference")) == ["b"]
    assert load_datalist(tmp_path / "series", "inference")[0]["image"] == str(tmp_path / "series")
    assert names(load_datalist(tmp_path / "many", "inference")) == ["one", "two"]


def test_dicom_files_without_suffix_are_known_by_their_mark(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "1.2.840.17").write_bytes(b"\0" * 128 + b"DICM")
    assert load_datalist(tmp_path, "inference")[0]["image"] == str(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    items = [{"image": f"{i}.nii.gz", "label": f"{i}.nii.gz"} for i in range(4)]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items, "validation": items}), encoding="utf-8")
    with pytest.raises(InputError, match=r"8 of 8 files are missing: .*0\.nii\.gz.* and 3 more"):
        load_datalist(tmp_path, "training")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not a JSON file"), ("[]", "needs a list"), ('{"training": []}', "needs a list"),
     ('{"training": [{"label": "a"}]}', "has no 'image'"), ('{"training": [{"image": [1]}]}', "a path"),
     ('{"test": ["a.png"]}', "no list 'validation'"), ('{"training": ["a.png"]}', "1 subject")],
)  # fmt: skip
def test_broken_lists_are_explained(tmp_path: Path, content: str, message: str) -> None:
    touch(tmp_path / "a.png")
    (tmp_path / "datalist.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_datalist(tmp_path, "training")


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_datalist(tmp_path / "absent", "training")
    with pytest.raises(InputError, match=r"datalist.json or dataset.json, or the folders images/ and labels/"):
        load_datalist(tmp_path, "training")
    with pytest.raises(InputError, match=r"no scan here; looked for .nii.gz"):
        load_datalist(tmp_path, "inference")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="no scan here"):
        load_datalist(tmp_path, "training")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.png", tmp_path / "images" / "a.jpg", tmp_path / "labels" / "a.png")
    with pytest.raises(InputError, match=r"a\.jpg, a\.png; keep one"):
        load_datalist(tmp_path, "training")


def test_an_unknown_section_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="section must be one of training"):
        load_datalist(tmp_path, "train")
