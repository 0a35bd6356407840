# SPDX-License-Identifier: Apache-2.0
"""What the demo of a bundle with experts runs before its first labelled slice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_ext.commands._bundle import find_bundle
from monai_ext.commands._demo_experts import ExpertsDemo
from monai_ext.commands._demo_places import DemoPlaces
from monai_ext.commands.demo import PLANS
from monai_ext.errors import InputError


def option(words: list[str], name: str) -> str:
    """The last value of an option, which is the one that counts."""
    return words[len(words) - 1 - words[::-1].index(f"--{name}") + 1]


@pytest.fixture
def places(tmp_path: Path) -> DemoPlaces:
    return DemoPlaces(find_bundle("samora"), tmp_path / "out")


@pytest.fixture
def wishes(places: DemoPlaces) -> dict[str, Any]:
    return json.loads(places.config.read_text(encoding="utf-8"))


def test_teachers_come_before_experts_and_these_before_fine_tuning(places: DemoPlaces, wishes: dict[str, Any]) -> None:
    assert PLANS[wishes["demo_plan"]] is ExpertsDemo
    steps = dict(ExpertsDemo(places, wishes).steps(1, {}))
    trained = [title for title, words in steps.items() if "training" in words]
    assert trained == [*wishes["demo_pretraining"], "training"]
    assert list(steps)[:2] == ["data", "random base"]
    assert trained.index("teacher of the image level") < trained.index("image expert")
    assert trained.index("teacher of the patch level") < trained.index("patch expert")
    assert list(steps)[-3:] == ["export", "inference of the whole volume", "report"]


def test_each_sees_unlabelled_sites_and_leaves_its_file_where_the_next_looks(
    places: DemoPlaces, wishes: dict[str, Any]
) -> None:
    steps = dict(ExpertsDemo(places, wishes).steps(1, {}))
    before = [steps[title] for title in wishes["demo_pretraining"]]
    assert {option(words, "dataset_dir") for words in before} == {str(places.data / "sites" / "datalist.json")}
    assert {option(words, "ckpt_dir") for words in [*before, steps["training"]]} == {str(places.models)}
    assert len({option(words, "output_dir") for words in [*before, steps["training"]]}) == 6
    assert "teacher_image.safetensors" in option(steps["image expert"], "teacher_path")
    assert steps["random base"][-1] == str(places.models / "pretrained" / "base.pt")
    assert option(steps["training"], "dataset_dir").endswith("datalist_tissue.json")


def test_knobs_reach_every_training(places: DemoPlaces, wishes: dict[str, Any]) -> None:
    steps = dict(ExpertsDemo(places, wishes).steps(4, {"max_epochs": 1}))
    assert {option(words, "max_epochs") for words in steps.values() if "training" in words} == {"1"}


def test_a_pretraining_without_a_config_is_named(places: DemoPlaces) -> None:
    with pytest.raises(InputError, match="demo_pretraining must name a config for pixel expert"):
        ExpertsDemo(places, {"demo_pretraining": {"pixel expert": {}}})
