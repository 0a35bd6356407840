# SPDX-License-Identifier: Apache-2.0
"""A training has the user's knobs, shares the studies out by their names, and fails where it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.label.training_task import build_trainer, share_out

bundle = pytest.importorskip("monailabel.tasks.train.bundle", reason="pip install --no-deps monailabel==0.8.5")

CONFIG: dict[str, Any] = {
    "max_epochs": 20,
    "learning_rate": 0.001,
    "network": None,
    "train": {"trainer": {"max_epochs": "@max_epochs"}, "dataset": {"data": []}, "handlers": []},
    "validate": {"dataset": {"data": []}},
}


class Store:
    """Studies with final labels."""

    def __init__(self, count: int) -> None:
        self.count = count

    def datalist(self) -> list[dict[str, str]]:
        return [{"image": f"/studies/{n}.nii.gz", "label": f"/labels/{n}.nii.gz"} for n in range(self.count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("train", CONFIG), ("metadata", {"version": "0.1.0"})):
        (tmp_path / "toy" / "configs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy" / "configs" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "toy" / "models").mkdir()
    (tmp_path / "toy" / "models" / "model.pt").touch()
    return tmp_path / "toy"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What MONAI is asked to run."""
    runs: list[dict[str, Any]] = []
    monkeypatch.setattr(bundle.monai.bundle, "run", lambda **words: runs.append(words))
    return runs


def images(studies: list[dict[str, str]]) -> set[str]:
    return {study["image"] for study in studies}


def test_the_knobs_of_a_request_reach_what_follows_from_them(folder: Path, asked: list[dict[str, Any]]) -> None:
    build_trainer(folder, {})({"model": "toy", "max_epochs": 3, "learning_rate": 0.1, "device": "cpu"}, Store(4))
    (run,) = asked
    assert (run["max_epochs"], run["train#trainer#max_epochs"], run["learning_rate"]) == (3, 3, 0.1)
    assert run["run_id"] == "run"


def test_without_knobs_the_bundle_s_own_count(folder: Path, asked: list[dict[str, Any]]) -> None:
    task = build_trainer(folder, {})
    task({"model": "toy", "device": "cpu"}, Store(4))
    assert asked[0]["train#trainer#max_epochs"] == CONFIG["max_epochs"]
    assert "learning_rate" not in asked[0]
    shown = task.info()["config"]
    assert {name: shown[name] for name in ("max_epochs", "learning_rate", "val_split")} == {
        "max_epochs": 20,
        "learning_rate": 0.001,
        "val_split": 0.2,
    }


@pytest.mark.parametrize(("pretrained", "loaders"), [(True, 1), (False, 0)])
def test_it_begins_with_the_weights_that_are_served_or_without(
    pretrained: bool, loaders: int, folder: Path, asked: list[dict[str, Any]]
) -> None:
    request = {"model": "toy", "device": "cpu", "pretrained": pretrained}
    build_trainer(folder, {})(request, Store(4))
    handlers = [handler["_target_"] for handler in asked[0]["train#handlers"]]
    assert handlers == ["CheckpointLoader"] * loaders


def test_a_study_stays_where_it_is_whatever_order_labels_come_in(folder: Path, asked: list[dict[str, Any]]) -> None:
    studies = Store(10).datalist()
    train, val = share_out(studies, 0.2)
    assert (len(train), len(val)) == (8, 2)
    assert not images(train) & images(val)
    again = share_out(studies[::-1], 0.2)
    assert (images(again[0]), images(again[1])) == (images(train), images(val))
    build_trainer(folder, {})({"model": "toy", "device": "cpu", "val_split": 0.2}, Store(10))
    assert images(asked[0]["validate#dataset#data"]) == images(val)
    assert images(asked[0]["train#dataset#data"]) == images(train)


@pytest.mark.parametrize(("count", "fraction"), [(2, 0.01), (2, 0.99), (3, 0.2)])
def test_of_few_studies_one_at_least_is_in_each_part(count: int, fraction: float) -> None:
    train, val = share_out(Store(count).datalist(), fraction)
    assert min(len(train), len(val)) >= 1
    assert len(train) + len(val) == count


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_labels_are_told_in_a_line(count: int, folder: Path, asked: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=rf"^train: {count} studies have a final label, wanted 2"):
        build_trainer(folder, {})({"model": "toy", "device": "cpu"}, Store(count))
    assert asked == []


def test_a_training_on_several_gpus_that_fails_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subprocess, "run", lambda words, env, check: _run([sys.executable, "-c", "exit(3)"], check=check)
    )
    with pytest.raises(subprocess.CalledProcessError):
        build_trainer(folder, {})._run_command(["torchrun", "--standalone"], {})


_run = subprocess.run


def test_a_bundle_without_a_training_has_none(folder: Path) -> None:
    (folder / "configs" / "train.json").unlink()
    assert build_trainer(folder, {}) is None
