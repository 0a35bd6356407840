# SPDX-License-Identifier: Apache-2.0
"""Every bundle trains, evaluates and segments: volumes, pictures, a user's own folders."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_ext.networks.checkpoints import read_state
from tests.bundles.profiles import Profile
from tests.bundles.runs import INFERENCE, TRAIN, read_json, rows_of, run, train_and_evaluate


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / "model.pt", weights_only=True)


def test_training_leaves_weights_a_record_and_a_history(profile: Profile, trained: Path) -> None:
    state = weights_of(trained)
    small = read_state(trained / "models" / profile.trained_file)
    assert set(small) < set(state)
    assert all(torch.equal(state[name], weight) for name, weight in small.items())
    assert not any(map(profile.frozen, small))
    assert profile.learns in small
    record = read_json(trained / "eval" / "run.json")
    assert (record["status"], record["bundle"], record["seed"]) == ("finished", profile.name, 0)
    assert record["parameters"]["trainable"] < record["parameters"]["total"]
    epochs = read_json(trained / "eval" / "history.json")["epochs"]
    assert [e["epoch"] for e in epochs] == list(range(1, 1 + profile.fit.get("max_epochs", 1)))
    assert all(0 <= e["val_mean_dice"] <= 1 for e in epochs)
    assert list((trained / "eval" / "overlays").glob("*.png"))


def test_frozen_weights_are_those_of_the_start(profile: Profile, trained: Path) -> None:
    from monai.utils import set_determinism

    set_determinism(0)
    start = profile.network(**profile.arguments)
    set_determinism(None)
    state, end = start.state_dict(), weights_of(trained)
    same = {name for name in state if torch.equal(state[name], end[name])}
    frozen = {name for name in state if profile.frozen(name)}
    assert frozen
    assert frozen <= same
    assert profile.learns not in same
    assert not any(profile.frozen(name) for name, weight in start.named_parameters() if weight.requires_grad)


def test_evaluation_scores_every_case_and_class_with_intervals(profile: Profile, trained: Path) -> None:
    rows = rows_of(trained / "eval" / "cases.csv")
    assert {int(r["class"]) for r in rows} == set(range(1, profile.classes))
    assert all(0 <= float(r["dice"]) <= 1 and 0 <= float(r["nsd"]) <= 1 and float(r["hd95_mm"]) >= 0 for r in rows)
    assert all(Path(r["prediction"]).is_file() for r in rows)
    summary = read_json(trained / "eval" / "summary.json")
    assert summary["conventions"]["prompt_source"] == profile.prompt_source
    assert summary["conventions"]["slices"] == "all"
    assert set(summary["mean_foreground"]["dice"]) >= {"mean", "low", "high", "n"}


def test_a_saved_prediction_scores_what_the_table_says(trained: Path) -> None:
    rows = rows_of(trained / "eval" / "cases.csv")
    assert rows
    for row in rows:
        predicted, truth = nib.load(row["prediction"]), nib.load(row["label"])
        assert np.allclose(predicted.affine, truth.affine)
        p = np.asarray(predicted.dataobj) == int(row["class"])
        t = np.asarray(truth.dataobj) == int(row["class"])
        assert float(row["dice"]) == pytest.approx(2 * (p & t).sum() / max(p.sum() + t.sum(), 1), abs=1e-6)


def test_run_without_a_name_trains_too_and_gives_the_same_weights(
    profile: Profile, trained: Path, data: Path, tmp_path: Path
) -> None:
    run(profile.name, "run", TRAIN, tmp_path, data, **profile.fit)
    first, second = weights_of(trained), weights_of(tmp_path)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_inference_writes_into_the_grid_of_an_oblique_volume(
    profile: Profile, trained: Path, scan: Path, tmp_path: Path
) -> None:
    turn = np.array([[0, -1, 0], [0.8, 0, -0.6], [0.6, 0, 0.8]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([4.0, 5.0, 12.0]), [7.0, -20.0, 3.0]
    volume = np.asarray(nib.load(scan).dataobj)[:30, :41]
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "oblique.nii.gz")
    weights = str(trained / "models" / "model.pt")
    run(profile.name, "inferring", INFERENCE, tmp_path, tmp_path / "oblique.nii.gz", ckpt_path=weights)
    result = nib.load(tmp_path / "eval" / "predictions" / "oblique.nii.gz")
    assert result.shape == volume.shape
    assert np.allclose(result.affine, affine)
    assert set(np.unique(np.asarray(result.dataobj))) <= set(range(profile.classes))


def folder_of_pictures(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    generator = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number, (width, height) in enumerate(sizes):
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 255 if number else 0  # the first is empty
        image = generator.integers(0, 60, (height, width, 3), dtype=np.uint8) + mask[..., None] // 2
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{number}.png")
    return folder


def test_pictures_in_two_folders_train_and_come_back_in_their_size(profile: Profile, tmp_path: Path) -> None:
    sizes = [(40, 30), (33, 47), (64, 64), (50, 20), (31, 31)]
    data = folder_of_pictures(tmp_path / "data", sizes)
    knobs = {"in_channels": 3, "num_classes": 1, "intensity": "unit", "label_interpolation": "bicubic"}
    summary = train_and_evaluate(profile.name, tmp_path, data, val_fraction=0.4, **knobs)
    assert summary["cases"] == 2
    weights = str(tmp_path / "models" / "model.pt")
    run(profile.name, "inferring", INFERENCE, tmp_path, data, ckpt_path=weights, **knobs)
    written = {p.name: Image.open(p).size for p in (tmp_path / "eval" / "predictions").glob("*.png")}
    assert written == {f"{i}.png": size for i, size in enumerate(sizes)}
