# SPDX-License-Identifier: Apache-2.0
"""What each bundle says of its rights is complete, and agrees with the files it names."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest
import yaml

from monai_ext.errors import InputError
from monai_ext.shipping.commercial_use import commercial_use_of
from monai_ext.shipping.licence_entry import LicenceEntry, strictest
from monai_ext.shipping.licence_file import LicenceFile
from tests.shipping.made_bundles import make_bundle

BUNDLES = {path.parent.name: path.parent for path in (Path(__file__).parents[2] / "bundles").glob("*/large_files.yml")}


@pytest.mark.parametrize("name", BUNDLES)
def test_each_published_file_has_its_licence_and_nothing_else_has(name: str) -> None:
    listed = yaml.safe_load((BUNDLES[name] / "large_files.yml").read_text(encoding="utf-8"))["large_files"]
    assert list(LicenceFile.read(BUNDLES[name]).weights) == [file["path"] for file in listed]


@pytest.mark.parametrize("name", BUNDLES)
def test_commercial_use_is_never_said_of_a_licence_that_does_not_say_so(name: str) -> None:
    file = LicenceFile.read(BUNDLES[name])
    entries = [file.code, *file.weights.values(), *file.teachers.values(), *file.data]
    assert [entry.commercial for entry in entries] == [commercial_use_of(entry.licence) for entry in entries]
    assert [entry.name for entry in entries if not entry.source] == []


def test_teachers_are_named_as_the_page_about_pre_training_does_and_are_not_downloaded() -> None:
    page = (Path(__file__).parents[2] / "docs" / "samora_pretraining.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(mae_\w+\.pth|r50_\w+)` \| [^|]+ \| ([^|]+) \|", page, re.MULTILINE))
    teachers = LicenceFile.read(BUNDLES["samora"]).teachers
    assert {Path(path).name.removesuffix(".safetensors"): entry.licence for path, entry in teachers.items()} == rows
    assert {entry.licence: entry.commercial for entry in teachers.values()} == {
        "CC BY-NC 4.0": "no", "Apache-2.0": "yes",
    }  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_the_configs_that_read_the_data_are_there(name: str) -> None:
    data = json.loads((BUNDLES[name] / "docs" / "licences.json").read_text(encoding="utf-8"))["data"]
    used = {config for entry in data for config in entry["used_by"]}
    assert used
    assert [config for config in used if not (BUNDLES[name] / "configs" / config).is_file()] == []


def test_the_strictest_part_decides() -> None:
    def entry(commercial: str) -> LicenceEntry:
        return LicenceEntry("data", "a", "b", commercial)

    for words in product(("yes", "unknown", "no"), repeat=3):
        expected = "no" if "no" in words else "unknown" if "unknown" in words else "yes"
        assert strictest(map(entry, words)) == expected
    assert strictest([]) == "unknown"


@pytest.mark.parametrize(
    "change",
    [
        {"code": None}, {"weights": [{"path": "a"}]},
        {"data": [{"name": "a", "licence": "b", "commercial": "perhaps"}]},
        {"data": [{"name": "a", "licence": "", "commercial": "yes"}]},
    ],
)  # fmt: skip
def test_a_file_that_says_too_little_is_refused(tmp_path: Path, change: dict) -> None:
    path = make_bundle(tmp_path / "toy") / "docs" / "licences.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(InputError, match=r"licences\.json: must hold code, weights and data"):
        LicenceFile.read(tmp_path / "toy")
