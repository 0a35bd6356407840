# SPDX-License-Identifier: Apache-2.0
"""Every config of SAM2-UNet is run: training, evaluation, inference, on volumes and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from tests.bundles.runs import run

NAME = "sam2_unet"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_training_leaves_weights_a_record_and_a_history(trained: Path) -> None:
    state = torch.load(trained / "models" / "model.pt", weights_only=True)
    task = torch.load(trained / "models" / "tasks" / "main.pt", weights_only=True)
    assert set(task) < set(state)
    assert not any(n.startswith("encoder.") and "prompt_learn" not in n for n in task)
    record = read_json(trained / "eval" / "run.json")
    assert (record["status"], record["bundle"], record["seed"]) == ("finished", NAME, 0)
    assert record["parameters"]["trainable"] < record["parameters"]["total"]
    epochs = read_json(trained / "eval" / "history.json")["epochs"]
    assert [e["epoch"] for e in epochs] == [1]
    assert 0 <= epochs[0]["val_mean_dice"] <= 1
    assert list((trained / "eval" / "overlays").glob("*.png"))


def test_evaluation_scores_every_case_and_class_with_intervals(trained: Path) -> None:
    with open(trained / "eval" / "cases.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {r["class"] for r in rows} == {"1", "2", "3"}
    assert all(0 <= float(r["dice"]) <= 1 and 0 <= float(r["nsd"]) <= 1 and float(r["hd95_mm"]) >= 0 for r in rows)
    assert all(Path(r["prediction"]).is_file() for r in rows)
    summary = read_json(trained / "eval" / "summary.json")
    assert summary["conventions"]["prompt_source"] == "none"
    assert summary["conventions"]["slices"] == "all"
    assert set(summary["mean_foreground"]["dice"]) >= {"mean", "low", "high", "n"}


def test_a_saved_prediction_scores_what_the_table_says(trained: Path) -> None:
    with open(trained / "eval" / "cases.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        predicted, truth = nib.load(row["prediction"]), nib.load(row["label"])
        assert np.allclose(predicted.affine, truth.affine)
        p = np.asarray(predicted.dataobj) == int(row["class"])
        t = np.asarray(truth.dataobj) == int(row["class"])
        assert float(row["dice"]) == pytest.approx(2 * (p & t).sum() / max(p.sum() + t.sum(), 1), abs=1e-6)


def test_run_without_a_name_trains_too_and_gives_the_same_weights(trained: Path, brain: Path, tmp_path: Path) -> None:
    run(NAME, "run", ("train.json",), tmp_path, brain)
    first = torch.load(trained / "models" / "model.pt", weights_only=True)
    second = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_inference_writes_into_the_grid_of_an_oblique_volume(trained: Path, brain: Path, tmp_path: Path) -> None:
    source = nib.load(brain / "brain" / "image.nii.gz")
    turn = np.array([[0, -1, 0], [0.8, 0, -0.6], [0.6, 0, 0.8]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([4.0, 5.0, 12.0]), [7.0, -20.0, 3.0]
    volume = np.asarray(source.dataobj)[:30, :41]
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "oblique.nii.gz")
    weights = str(trained / "models" / "model.pt")
    run(NAME, "inferring", ("inference.json",), tmp_path, tmp_path / "oblique.nii.gz", ckpt_path=weights)
    result = nib.load(tmp_path / "eval" / "predictions" / "oblique.nii.gz")
    assert result.shape == volume.shape
    assert np.allclose(result.affine, affine)
    assert set(np.unique(np.asarray(result.dataobj))) <= {0, 1, 2, 3}


def folder_of_pictures(folder: Path, channels: int, sizes: list[tuple[int, int]]) -> Path:
    generator = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number, (width, height) in enumerate(sizes):
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 255 if number else 0  # the first is empty
        shape = (height, width) if channels == 1 else (height, width, channels)
        noise = generator.integers(0, 60, shape, dtype=np.uint8)
        image = noise + (mask if channels == 1 else mask[..., None]) // 2
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{number}.png")
    return folder


def test_pictures_in_two_folders_train_and_come_back_in_their_size(tmp_path: Path) -> None:
    sizes = [(40, 30), (33, 47), (64, 64), (50, 20), (31, 31)]
    data = folder_of_pictures(tmp_path / "data", 3, sizes)
    knobs = {"in_channels": 3, "num_classes": 1, "intensity": "unit", "label_interpolation": "bicubic"}
    run(NAME, "training", ("train.json",), tmp_path, data, val_fraction=0.4, **knobs)
    run(NAME, "evaluating", ("train.json", "evaluate.json"), tmp_path, data, val_fraction=0.4, **knobs)
    weights = str(tmp_path / "models" / "model.pt")
    run(NAME, "inferring", ("inference.json",), tmp_path, data, ckpt_path=weights, **knobs)
    written = {p.name: Image.open(p).size for p in (tmp_path / "eval" / "predictions").glob("*.png")}
    assert written == {f"{i}.png": size for i, size in enumerate(sizes)}
    assert read_json(tmp_path / "eval" / "summary.json")["cases"] == 2


@pytest.mark.parametrize(
    "knobs",
    [
        {"num_classes": 1, "in_channels": 4, "intensity": "zscore", "tuning": "lora"},
        {"num_classes": 2, "slice_context": 1, "plane": "coronal", "intensity": "window", "intensity_upper": 200},
        {"num_classes": 13, "tuning": "full", "decoder_attention": True, "use_checkpoint": True, "empty_slices": 0.5},
        {"tuning": "frozen", "amp": True, "accumulation_steps": 2, "clip_norm": 1.0, "bce_weighting": "paper"},
    ],
    ids=["four-modalities-lora", "three-slices-coronal", "thirteen-classes-full", "frozen-amp-accumulation"],
)
def test_knobs_train_and_evaluate(knobs: dict[str, Any], brain: Path, tmp_path: Path) -> None:
    data = derived_data(brain, tmp_path / "data", knobs.get("in_channels", 1), knobs.get("num_classes", 4))
    run(NAME, "training", ("train.json",), tmp_path, data, **knobs)
    run(NAME, "evaluating", ("train.json", "evaluate.json"), tmp_path, data, **knobs)
    assert read_json(tmp_path / "eval" / "summary.json")["cases"] == 1


def derived_data(brain: Path, folder: Path, modalities: int, classes: int) -> Path:
    """The brain with its image repeated as modalities and only those classes that the knobs allow."""
    listed = read_json(brain / "datalist.json")
    folder.mkdir()
    for section in ("training", "validation", "test"):
        for number, item in enumerate(listed[section]):
            label = nib.load(brain / item["label"])
            kept = np.asarray(label.dataobj)
            kept = (kept > 1).astype(np.uint8) if classes <= 2 else kept
            path = folder / f"{section}_{number}.nii.gz"
            nib.save(nib.Nifti1Image(kept, label.affine), path)
            item["label"], item["image"] = str(path), [str(brain / item["image"])] * modalities
    (folder / "datalist.json").write_text(json.dumps(listed), encoding="utf-8")
    return folder


def test_a_task_is_switched_on_a_network_that_stays(trained: Path, brain: Path, tmp_path: Path) -> None:
    weights, tasks = trained / "models" / "model.pt", trained / "models" / "tasks"
    state = torch.load(tasks / "main.pt", weights_only=True)
    other = {n: w + 0.5 if w.is_floating_point() and n.startswith("head") else w for n, w in state.items()}
    torch.save(other, tasks / "other.pt")
    volumes = {}
    for task in ("main", "other"):
        image = brain / "brain" / "image.nii.gz"
        run(NAME, "inferring", ("inference.json",), tmp_path / task, image, ckpt_path=str(weights), task=task)
        volumes[task] = np.asarray(nib.load(tmp_path / task / "eval" / "predictions" / "image.nii.gz").dataobj)
    assert volumes["main"].shape == volumes["other"].shape


def test_frozen_weights_are_those_of_the_start(trained: Path) -> None:
    from monai.utils import set_determinism
    from sam2_unet.network import SAM2UNet

    set_determinism(0)
    start = SAM2UNet(in_channels=1, num_classes=4, backbone="nano", image_size=32).state_dict()
    set_determinism(None)
    end = torch.load(trained / "models" / "model.pt", weights_only=True)
    same = {n for n in start if torch.equal(start[n], end[n])}
    frozen = {n for n in start if n.startswith("encoder.") and "prompt_learn" not in n}
    assert frozen <= same
    assert "head.weight" not in same
