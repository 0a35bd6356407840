# SPDX-License-Identifier: Apache-2.0
"""A killed run goes on, and two processes score what one does; two that train: test_model_card_commands."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.bundles.profiles import Profile
from tests.bundles.runs import EVALUATE, TRAIN, command, has_epochs, read_json, refused, run
from tests.bundles.warm_python import WarmPython


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "eval" / "checkpoint.pt", weights_only=True)["objects"]["network"]


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(
    profile: Profile, data: Path, warm: WarmPython, tmp_path: Path
) -> None:
    knobs = {"max_epochs": 5, "num_workers": 1, **profile.random_training}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(profile.name, "training", TRAIN, whole, data, **{**knobs, "num_workers": 0})
    words = command(profile.name, "training", TRAIN, killed, data, **knobs)
    warm.kill(words, tmp_path, when=lambda: has_epochs(killed, 2))
    assert len(read_json(killed / "eval" / "history.json")["epochs"]) < 5
    run(profile.name, "training", TRAIN, killed, data, **knobs, resume=True)
    expected, resumed = final_weights(whole), final_weights(killed)
    assert all(torch.equal(expected[n], resumed[n]) for n in expected)
    epochs = [read_json(folder / "eval" / "history.json")["epochs"] for folder in (whole, killed)]
    losses = [[(e["epoch"], e["train_loss"], e["val_mean_dice"]) for e in history] for history in epochs]
    assert losses[0] == losses[1]


def test_resuming_with_other_knobs_is_refused(profile: Profile, data: Path, tmp_path: Path) -> None:
    run(profile.name, "training", TRAIN, tmp_path, data)
    before = (tmp_path / "eval" / "checkpoint.pt").read_bytes()
    refusal = refused(profile.name, "training", TRAIN, tmp_path, data, resume=True, learning_rate=0.5, max_epochs=2)
    assert "learning_rate" in str(refusal)
    assert (tmp_path / "eval" / "checkpoint.pt").read_bytes() == before


def two_test_cases(listed: Path, folder: Path) -> Path:
    """The same data, with the validation case as a second test case."""
    folder.mkdir()
    content = read_json(listed)
    for section in ("training", "validation", "test"):
        for item in content[section]:
            item["image"], item["label"] = (str(listed.parent / item[key]) for key in ("image", "label"))
    content["test"] += [{**content["validation"][0], "subject": "other"}]
    (folder / "datalist.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_two_processes_score_as_one(
    profile: Profile, trained: Path, data: Path, warm: WarmPython, tmp_path: Path
) -> None:
    cases = two_test_cases(data / "datalist.json" if data.is_dir() else data, tmp_path / "data")
    weights = {"ckpt_path": str(trained / "models" / "model.pt")}
    words = command(profile.name, "evaluating", (*EVALUATE, "multi_gpu_evaluate.json"), tmp_path, cases, **weights)
    scored = warm.torchrun(words, tmp_path)
    assert scored.returncode == 0, scored.stderr[-2000:]
    together = read_json(tmp_path / "eval" / "summary.json")
    run(profile.name, "evaluating", EVALUATE, tmp_path, cases, **weights)
    alone = read_json(tmp_path / "eval" / "summary.json")
    assert together["cases"] == 2
    assert together["mean_foreground"] == alone["mean_foreground"]


def test_the_many_process_file_alone_says_how_to_start(
    profile: Profile, data: Path, warm: WarmPython, tmp_path: Path
) -> None:
    files = ("train.json", "multi_gpu_train.json")
    result = warm.call(command(profile.name, "training", files, tmp_path, data), tmp_path)
    assert result.returncode != 0
    assert "torchrun" in result.stderr.strip().splitlines()[-1]
