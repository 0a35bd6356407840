# SPDX-License-Identifier: Apache-2.0
"""Who trains and who is tested when one site is the source."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from monai_ext.data import load_datalist, load_site_datalist
from monai_ext.demo import write_tiny_dataset
from monai_ext.errors import InputError

SECTIONS = ("training", "validation", "test", "inference")


def item(name: str, site: str, label: bool = True, **more: Any) -> dict[str, Any]:
    return {"image": f"{name}.nii.gz", "site": site, **({"label": f"{name}_y.nii.gz"} if label else {}), **more}


def write(folder: Path, **lists: list[dict[str, Any]]) -> Path:
    for entry in (entry for entries in lists.values() for entry in entries):
        for key in entry.keys() & {"image", "label"}:
            (folder / entry[key]).touch()
    (folder / "datalist.json").write_text(json.dumps(lists), encoding="utf-8")
    return folder


def names(items: list[dict[str, Any]]) -> list[str]:
    return [entry["case"] for entry in items]


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """North has all lists, east no test, west an unlabelled test beside a labelled one."""
    return write(
        tmp_path,
        training=[item("n1", "north"), item("n2", "north"), item("e1", "east"), item("w1", "west")],
        validation=[item("n3", "north"), item("e2", "east"), item("w2", "west")],
        test=[item("n4", "north"), item("w3", "west"), item("w4", "west", label=False)],
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_without_a_source_it_is_the_whole_data_list(sites: Path, section: str) -> None:
    assert load_site_datalist(sites, section) == load_datalist(sites, section)


def test_only_the_source_site_trains_and_validates(sites: Path) -> None:
    assert names(load_site_datalist(sites, "training", "north")) == ["n1", "n2"]
    assert names(load_site_datalist(sites, "validation", "north")) == ["n3"]
    assert load_site_datalist(sites, "inference", "north") == load_datalist(sites, "inference")


def test_tested_are_held_out_cases_and_the_test_cases_of_other_sites_or_all_they_have(sites: Path) -> None:
    assert names(load_site_datalist(sites, "test", "north")) == ["n4", "e1", "e2", "w3"]
    assert names(load_site_datalist(sites, "test", "north", target_cases="all")) == [
        "n4", "e1", "w1", "e2", "w2", "w3",
    ]  # fmt: skip
    assert names(load_site_datalist(sites, "test", "east")) == ["e2", "n4", "w3"]


def test_cases_without_a_label_are_not_tested(tmp_path: Path) -> None:
    write(
        tmp_path,
        training=[item("n1", "north"), item("s1", "south"), item("s3", "south", label=False)],
        validation=[item("n2", "north")],
        test=[item("n3", "north", label=False), item("s2", "south", label=False)],
    )
    assert names(load_site_datalist(tmp_path, "test", "north")) == ["n2", "s1"]


def test_the_items_are_those_of_the_data_list(sites: Path) -> None:
    assert load_site_datalist(sites, "training", "north") == load_datalist(sites, "training")[:2]


def test_several_sites_may_train(sites: Path) -> None:
    assert names(load_site_datalist(sites, "training", ["north", "east"])) == ["n1", "n2", "e1"]
    assert names(load_site_datalist(sites, "test", ["north", "east"])) == ["n4", "w3"]


def test_a_list_without_validation_is_split_by_subject_as_ever(tmp_path: Path) -> None:
    north = [item(f"n{i}", "north", subject=f"p{i // 2}") for i in range(10)]
    write(tmp_path, training=[*north, item("s", "south")])
    for seed in range(3):
        parts = [load_site_datalist(tmp_path, part, "north", seed=seed) for part in SECTIONS[:3]]
        people = [{entry["subject"] for entry in part if entry["site"] == "north"} for part in parts]
        assert len(people[1]) == 1
        assert people[0] & people[1] == set()
        assert people[2] == people[1]
        assert names(parts[2])[-1] == "s"


def test_a_source_site_alone_is_split_as_a_data_set_of_its_own(tmp_path: Path) -> None:
    north = [item(f"n{i}", "north") for i in range(10)]
    (tmp_path / "alone").mkdir()
    (tmp_path / "among").mkdir()
    write(tmp_path / "alone", training=north)
    write(tmp_path / "among", training=[item("s", "south"), *north])
    for section in ("training", "validation"):
        own = names(load_datalist(tmp_path / "alone", section, seed=5))
        assert names(load_site_datalist(tmp_path / "among", section, "north", seed=5)) == own


def test_people_who_train_are_not_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(
        tmp_path,
        training=[item("n1", "north", subject=1), item("s1", "south", subject=9)],
        validation=[item("n2", "north", subject=2)],
        test=[item("n3", "north", subject=1), item("n4", "north", subject=3)],
    )
    with caplog.at_level(logging.WARNING):
        assert names(load_site_datalist(tmp_path, "test", "north")) == ["n4", "s1"]
    assert "1 held-out cases are of subjects that train and are not scored: n3" in caplog.text


def test_a_subjects_name_at_two_sites_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(
        tmp_path,
        training=[item("n1", "north", subject=1), item("s1", "south", subject=1), item("s2", "south", subject=2)],
        validation=[item("n2", "north", subject=3)],
    )
    with caplog.at_level(logging.WARNING):
        assert names(load_site_datalist(tmp_path, "test", "north")) == ["n2", "s1", "s2"]
    assert "1 of 2 cases of unseen sites have the subject's name of a case that trains" in caplog.text


def test_a_scan_in_two_lists_is_tested_once(tmp_path: Path) -> None:
    south = item("s", "south")
    write(tmp_path, training=[item("n1", "north"), south], validation=[item("n2", "north"), south], test=[south])
    for cases in ("test", "all"):
        found = load_site_datalist(tmp_path, "test", "north", target_cases=cases)
        assert [Path(entry["image"]).name for entry in found] == ["n2.nii.gz", "s.nii.gz"]


def test_nothing_held_out_leaves_the_unseen_sites(tmp_path: Path) -> None:
    write(tmp_path, training=[item("n1", "north"), item("s1", "south")])
    assert names(load_site_datalist(tmp_path, "test", "north", val_fraction=0)) == ["s1"]
    with pytest.raises(InputError, match="site north: nothing in section 'validation'"):
        load_site_datalist(tmp_path, "validation", "north", val_fraction=0)
    with pytest.raises(InputError, match="site south, north: nothing in section 'test'"):
        load_site_datalist(tmp_path, "test", ["south", "north"], val_fraction=0)


def test_an_unknown_site_is_answered_by_those_there_are(sites: Path) -> None:
    with pytest.raises(InputError, match=r"no site south; set source_site to some of east \(2\), north \(4\), west"):
        load_site_datalist(sites, "training", "south")
    with pytest.raises(InputError, match=r"no site is named; set source_site to some of east"):
        load_site_datalist(sites, "training", [])


def test_cases_without_a_site_are_named_with_the_remedy(tmp_path: Path) -> None:
    write(tmp_path, training=[item("a", "north"), {"image": "b.nii.gz", "label": "a_y.nii.gz"}])
    with pytest.raises(InputError, match=r"1 of 2 cases name no site \(b\).*give each item of its datalist.json a"):
        load_site_datalist(tmp_path, "training", "north")


def test_a_site_that_has_nothing_to_train_on_is_no_source(tmp_path: Path) -> None:
    write(tmp_path, training=[item("a", "north")], test=[item("b", "south")])
    with pytest.raises(InputError, match=r"site south: no case in the list 'training'; choose a source_site"):
        load_site_datalist(tmp_path, "test", "south")
    with pytest.raises(InputError, match=r"site north: 1 subject in training and no list 'validation'"):
        load_site_datalist(tmp_path, "training", "north")


def test_missing_files_and_wrong_settings_are_explained(sites: Path) -> None:
    (sites / "n4.nii.gz").unlink()
    assert names(load_site_datalist(sites, "training", "north")) == ["n1", "n2"]
    with pytest.raises(InputError, match=r"1 of 8 files are missing: .*n4\.nii\.gz"):
        load_site_datalist(sites, "test", "north")
    with pytest.raises(InputError, match="target_cases must be one of test, all, got 'every'"):
        load_site_datalist(sites, "test", "north", target_cases="every")
    with pytest.raises(ValueError, match="section must be one of training"):
        load_site_datalist(sites, "train", "north")


def test_the_demo_can_be_trained_on_one_of_its_sites(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path, size=(16, 16, 8))
    demo = tmp_path / "sites"
    training, test = (load_site_datalist(demo, part, "low_field") for part in ("training", "test"))
    assert {entry["site"] for entry in training} == {"low_field"}
    assert len({entry["site"] for entry in test}) == len(test) == 6
    assert {entry["subject"] for entry in training} & {entry["subject"] for entry in test} == set()
