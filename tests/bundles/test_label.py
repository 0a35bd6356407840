# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own tasks take every bundle as it is, with the knobs that its user wrote into the configs."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundles.profiles import SAM2_UNET, Profile
from tests.bundles.runs import INFERENCE, read_json, run

PIP = "pip install --no-deps monailabel==0.8.5 (and the extra dev, which has what it imports)"
infer = pytest.importorskip("monailabel.tasks.infer.bundle", reason=PIP)
train = pytest.importorskip("monailabel.tasks.train.bundle", reason=PIP)


class Datastore:
    """What a server's store tells a training task, with something more in each item, as real stores have."""

    def __init__(self, data: Path) -> None:
        self.list = data / "datalist.json" if data.is_dir() else data

    def datalist(self) -> list[dict[str, Any]]:
        listed, root = read_json(self.list), self.list.parent
        items = [item for section in ("training", "validation", "test") for item in listed[section]]
        return [{"image": str(root / i["image"]), "label": str(root / i["label"]), "id": 1} for i in items]

    def classes(self) -> dict[str, str]:
        return read_json(self.list)["labels"]


@pytest.fixture
def served(
    profile: Profile, trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy of the bundle, as it lies in a server's model folder, with trained weights and tiny knobs."""
    folder = tmp_path / "model" / profile.name
    shutil.copytree(profile.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    for name in ("train", "inference"):
        path = folder / "configs" / f"{name}.json"
        config = read_json(path)
        knobs = {knob: value for knob, value in profile.tiny.items() if knob in config and knob != "device"}
        path.write_text(json.dumps({**config, **knobs}), encoding="utf-8")
    metadata = read_json(folder / "configs" / "metadata.json")
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = Datastore(data).classes()
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (folder / "models").mkdir()
    shutil.copy(trained / "models" / "model.pt", folder / "models")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a server's results lie until they are sent
    hook = sys.excepthook
    yield folder
    sys.excepthook = hook


def volume(scan: Path, path: Path, shift: int) -> Path:
    """A piece of the brain in an oblique, anisotropic grid whose axes are neither RAS nor LPS."""
    voxels = np.asarray(nib.load(scan).dataobj)[shift : 30 + shift, :41]
    turn = np.array([[0, -1, 0], [0.8, 0, -0.6], [0.6, 0, 0.8]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([4.0, 5.0, 12.0]), [7.0, -20.0, 3.0 * shift]
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def request(name: str, image: Path) -> dict[str, Any]:
    """What the server makes of ``POST /infer/NAME?image=...``."""
    return {
        "model": name,
        "image": str(image),
        "device": "cpu",
        "result_extension": ".nii.gz",
        "result_dtype": "uint8",
    }


def test_two_clients_at_once_get_what_the_command_line_gives(
    profile: Profile, served: Path, data: Path, scan: Path, tmp_path: Path
) -> None:
    images = [volume(scan, tmp_path / f"scan{i}.nii.gz", shift=5 * i) for i in range(4)]
    expected_names = {name.lower(): int(index) for index, name in Datastore(data).classes().items() if int(index)}
    task = infer.BundleInferTask(str(served), {})
    assert task.is_valid()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(task, [request(profile.name, image) for image in images]))
    weights = str(served / "models" / "model.pt")
    for (file, answer), image in zip(answers, images, strict=True):
        run(profile.name, "inferring", INFERENCE, tmp_path, image, ckpt_path=weights)
        expected = nib.load(tmp_path / "eval" / "predictions" / image.name)
        result = nib.load(file)
        np.testing.assert_array_equal(np.asarray(result.dataobj), np.asarray(expected.dataobj))
        np.testing.assert_allclose(result.affine, nib.load(image).affine, atol=1e-5)
        assert answer["label_names"] == expected_names
    assert len(np.unique(np.asarray(result.dataobj))) > 1
    assert not (served / "eval").exists()  # the server writes results, the bundle does not


def test_the_server_offers_the_models_of_the_bundle_and_nothing_else(served: Path) -> None:
    assert infer.BundleInferTask(str(served), {}).info()["config"]["model_filename"] == ["model.pt"]
    assert train.BundleTrainTask(str(served), {}).config()["model_filename"] == ["model.pt"]


@pytest.mark.parametrize("profile", [SAM2_UNET], ids=lambda profile: profile.name, indirect=True)
def test_scoring_by_dropout_finds_the_knob(served: Path) -> None:
    assert infer.BundleInferTask(str(served), {}, dropout=0.2).network.dropout.p == 0.2


@pytest.mark.parametrize("run_id", ["run", ""], ids=["by-name", "as-a-client-leaves-it"])
def test_training_goes_on_from_the_model_and_keeps_it(run_id: str, profile: Profile, served: Path, data: Path) -> None:
    before = torch.load(served / "models" / "model.pt", weights_only=True)
    frozen = {name for name in before if profile.frozen(name)}
    before |= {n: before[n] + 0.01 for n in frozen}  # not what the seed gives
    torch.save(before, served / "models" / "model.pt")
    settings = {"max_epochs": 1, "val_split": 0.4, "pretrained": True, "run_id": run_id}
    train.BundleTrainTask(str(served), {})({"model": profile.name, "device": "cpu", **settings}, Datastore(data))
    after = torch.load(served / "models" / "model.pt", weights_only=True)
    kept = torch.load(served / "models" / "model_backup_1.pt", weights_only=True)
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert frozen
    assert all(torch.equal(after[n], before[n]) for n in frozen)
    assert not torch.equal(after[profile.learns], before[profile.learns])
    assert sorted(p.name for p in (served / "models").glob("*.pt")) == ["model.pt", "model_backup_1.pt"]
    epochs = read_json(served / "eval" / "history.json")["epochs"]
    assert len(epochs) == 1
    assert "val_mean_dice" in epochs[0]
    assert not list((served / "eval").glob("history_backup*"))  # trained once, not twice


def test_all_labelled_scans_may_be_used_for_training(profile: Profile, served: Path, data: Path) -> None:
    settings = {"max_epochs": 1, "val_split": 0, "pretrained": True}
    train.BundleTrainTask(str(served), {})({"model": profile.name, "device": "cpu", **settings}, Datastore(data))
    assert read_json(served / "eval" / "run.json")["status"] == "finished"
    assert (served / "models" / "model_backup_1.pt").is_file()
