# SPDX-License-Identifier: Apache-2.0
"""Lists of pairs for registration, and scans that take their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_ext.data import load_pair_list, load_registration_pairs
from monai_ext.errors import InputError

PAIR = {"fixed": "a.nii.gz", "moving": "b.nii.gz"}
FULL = {**PAIR, "fixed_label": "al.nii.gz", "moving_label": "bl.nii.gz", "points": "p.csv", "truth": "t.csv"}


def listed(folder: Path, **sections: list[Any]) -> Path:
    for name in FULL.values():
        (folder / name).touch()
    path = folder / "pairs.json"
    path.write_text(json.dumps(sections), encoding="utf-8")
    return path


def test_a_pair_has_paths_by_role_and_names(tmp_path: Path) -> None:
    listed(tmp_path, training=[FULL, {**PAIR, "subject": "s"}])
    first, second = load_registration_pairs(tmp_path, "training")
    roles = {"image": "b", "reference": "a", "image_label": "bl", "reference_label": "al"}
    assert {key: first[key] for key in roles} == {key: str(tmp_path / f"{v}.nii.gz") for key, v in roles.items()}
    assert (first["points"], first["truth"]) == (str(tmp_path / "p.csv"), str(tmp_path / "t.csv"))
    assert "points" not in second
    assert (first["case"], second["case"], second["subject"]) == ("a_to_b", "a_to_b-2", "s")


def test_matching_and_registration_read_one_file(tmp_path: Path) -> None:
    path = listed(tmp_path, test=[{**PAIR, "points": "p.csv", "case": "one"}])
    assert load_registration_pairs(path, "test") == load_pair_list(path, "test")
    assert load_registration_pairs(path, "inference") == load_registration_pairs(path, "test")


def scans(folder: Path) -> Path:
    for kind, names in (("images", "abc"), ("labels", "ab")):
        (folder / kind).mkdir(parents=True)
        for name in names:
            (folder / kind / f"{name}.nii.gz").touch()
    return folder


def test_where_a_section_has_no_pairs_scans_take_their_place(tmp_path: Path) -> None:
    path = listed(tmp_path, test=[PAIR])
    items = load_registration_pairs(scans(tmp_path / "scans"), "training", pairs=path, val_fraction=0.34)
    assert len(items) == 2
    assert all("reference" not in item for item in items)
    assert load_registration_pairs(tmp_path / "scans", "test", pairs=path)[0]["reference"].endswith("a.nii.gz")


def test_scans_have_the_labels_that_there_are(tmp_path: Path) -> None:
    folder = scans(tmp_path / "scans")
    found = {item["case"]: item.get("label") for item in load_registration_pairs(folder, "training", val_fraction=0.0)}
    assert found == {"a": str(folder / "labels/a.nii.gz"), "b": str(folder / "labels/b.nii.gz"), "c": None}
    content = {"training": [{"image": "images/c.nii.gz", "label": "labels/a.nii.gz"}, {"image": "images/a.nii.gz"}]}
    (folder / "datalist.json").write_text(json.dumps({**content, "validation": content["training"]}), encoding="utf-8")
    assert [item.get("label") for item in load_registration_pairs(folder, "training")] == [found["a"], None]


@pytest.mark.parametrize(
    ("sections", "section", "told"),
    [
        ({"test": [{"fixed": "a.nii.gz"}]}, "test", "needs paths 'fixed' and 'moving'"),
        ({"test": [{**PAIR, "moving_label": "none.nii.gz"}]}, "test", r"files are missing: .*none.nii.gz"),
        ({"test": [{**PAIR, "case": "x"}, {**PAIR, "case": "x"}]}, "test", "two items are called 'x'"),
        ({"training": [PAIR]}, "inference", "no pairs to register"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(sections: dict[str, Any], section: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        load_registration_pairs(listed(tmp_path, **sections), section)
