# SPDX-License-Identifier: Apache-2.0
"""Wrong input gets one clear line; a killed run goes on; two processes agree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_ext.errors import InputError, find_input_error, message_of
from tests.bundles.runs import call, command, environment, run

NAME = "sam2_unet"


def copy_of(brain: Path, folder: Path) -> Path:
    shutil.copytree(brain, folder)
    return folder


def change(path: Path, edit: Callable[[np.ndarray], np.ndarray], shift: float = 0.0) -> None:
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += shift
    nib.save(nib.Nifti1Image(edit(np.asarray(image.dataobj)), affine), path)


def first(data: Path, key: str) -> Path:
    return data / json.loads((data / "datalist.json").read_text(encoding="utf-8"))["training"][0][key]


def with_nan(voxels: np.ndarray) -> np.ndarray:
    voxels = voxels.astype(np.float32)
    voxels[3, 3, 3] = np.nan
    return voxels


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing folder": (shutil.rmtree, "brain"),
    "missing image": (lambda d: first(d, "image").unlink(), "training"),
    "truncated": (lambda d: truncate(first(d, "image")), "training"),
    "empty file": (lambda d: first(d, "image").write_bytes(b""), "training"),
    "no image at all": (lambda d: first(d, "image").write_bytes(b"hello" * 99), "training"),
    "NaN voxels": (lambda d: change(first(d, "image"), with_nan), "NaN"),
    "class that does not exist": (lambda d: change(first(d, "label"), lambda v: v + 9), "num_classes"),
    "other shape": (lambda d: change(first(d, "label"), lambda v: v[:-1]), "grid"),
    "other place": (lambda d: change(first(d, "label"), lambda v: v, shift=9.0), "9 mm"),
    "data list that is no JSON": (lambda d: (d / "datalist.json").write_text("{", encoding="utf-8"), "datalist.json"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_data_is_named_and_nothing_is_lost(fault: str, brain: Path, tmp_path: Path) -> None:
    data = copy_of(brain, tmp_path / "brain")
    BROKEN[fault][0](data)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"precious")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what we raise
        run(NAME, "training", ("train.json",), tmp_path, data)
    found = find_input_error(caught.value)
    assert isinstance(found, InputError), repr(caught.value)
    assert BROKEN[fault][1] in message_of(found)
    assert "\n" not in message_of(found)
    assert (tmp_path / "models" / "model.pt").read_bytes() == b"precious"


def test_the_program_prints_one_line_and_fails(brain: Path, tmp_path: Path) -> None:
    data = copy_of(brain, tmp_path / "brain")
    change(first(data, "image"), with_nan)
    result = call(command(NAME, "training", ("train.json",), tmp_path, data, num_workers=1), tmp_path)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "training" in line
    assert "doctor" in line


def test_labels_without_any_object_are_legal(brain: Path, tmp_path: Path) -> None:
    data = copy_of(brain, tmp_path / "brain")
    for section in ("training", "validation", "test"):
        for item in json.loads((data / "datalist.json").read_text(encoding="utf-8"))[section]:
            change(data / item["label"], np.zeros_like)
    run(NAME, "training", ("train.json",), tmp_path, data)
    run(NAME, "evaluating", ("train.json", "evaluate.json"), tmp_path, data)
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert all(w.isfinite().all() for w in state.values())
    assert json.loads((tmp_path / "eval" / "history.json").read_text(encoding="utf-8"))["epochs"][0]["train_loss"] < 100


def refusal(tmp_path: Path, data: Path, **knobs: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run(NAME, "inferring", ("inference.json",), tmp_path, data, **knobs)
    found = find_input_error(caught.value)
    assert found is not None, repr(caught.value)
    return message_of(found)


def test_weights_of_another_architecture_are_refused(trained: Path, brain: Path, tmp_path: Path) -> None:
    weights = str(trained / "models" / "model.pt")
    assert "side1.weight is 4" in refusal(tmp_path, brain, ckpt_path=weights, num_classes=2, tuning="adapter")


def test_missing_weights_say_how_to_get_some(brain: Path, tmp_path: Path) -> None:
    assert "train first" in refusal(tmp_path, brain)


@pytest.mark.parametrize("knob", ["amp", "use_checkpoint"])
def test_a_switch_in_the_wrong_spelling_is_not_taken_for_true(knob: str, brain: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run(NAME, "training", ("train.json",), tmp_path, brain, **{knob: "false"})
    found = find_input_error(caught.value)
    assert found is not None
    assert f"--{knob} False" in message_of(found)


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "eval" / "checkpoint.pt", weights_only=True)["objects"]["network"]


def wait_for_epoch(folder: Path, process: subprocess.Popen[bytes], epoch: int) -> None:
    history, deadline = folder / "eval" / "history.json", time.monotonic() + 200
    while time.monotonic() < deadline:
        if history.is_file() and len(json.loads(history.read_text(encoding="utf-8"))["epochs"]) >= epoch:
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    raise AssertionError("no epoch ended in time")


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(brain: Path, tmp_path: Path) -> None:
    knobs = {"max_epochs": 5, "dropout": 0.1, "num_workers": 1}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(NAME, "training", ("train.json",), whole, brain, **{**knobs, "num_workers": 0})
    words = [sys.executable, *command(NAME, "training", ("train.json",), killed, brain, **knobs)]
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    wait_for_epoch(killed, process, 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(json.loads((killed / "eval" / "history.json").read_text(encoding="utf-8"))["epochs"]) < 5
    run(NAME, "training", ("train.json",), killed, brain, **knobs, resume=True)
    expected, resumed = final_weights(whole), final_weights(killed)
    assert all(torch.equal(expected[n], resumed[n]) for n in expected)
    epochs = [json.loads((f / "eval" / "history.json").read_text(encoding="utf-8"))["epochs"] for f in (whole, killed)]
    losses = [[(e["epoch"], e["train_loss"], e["val_mean_dice"]) for e in history] for history in epochs]
    assert losses[0] == losses[1]


def test_resuming_with_other_knobs_is_refused(brain: Path, tmp_path: Path) -> None:
    run(NAME, "training", ("train.json",), tmp_path, brain)
    before = (tmp_path / "eval" / "checkpoint.pt").read_bytes()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run(NAME, "training", ("train.json",), tmp_path, brain, resume=True, learning_rate=0.5, max_epochs=2)
    found = find_input_error(caught.value)
    assert found is not None
    assert "learning_rate" in str(found)
    assert (tmp_path / "eval" / "checkpoint.pt").read_bytes() == before


def torchrun(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return call([*launch, *words], folder, timeout=400)


def test_two_processes_train_and_evaluate_as_one(brain: Path, tmp_path: Path) -> None:
    files = ("train.json", "multi_gpu_train.json")
    trained = torchrun(command(NAME, "training", files, tmp_path, brain), tmp_path)
    assert trained.returncode == 0, trained.stderr[-2000:]
    record = json.loads((tmp_path / "eval" / "run.json").read_text(encoding="utf-8"))
    assert record["hardware"]["processes"] == 2
    metrics = [line.split("mean_dice: ")[1] for line in trained.stdout.splitlines() if "new best metric" in line]
    assert len(metrics) == 2
    assert metrics[0] == metrics[1]

    files = ("train.json", "evaluate.json", "multi_gpu_evaluate.json")
    data = two_test_cases(brain, tmp_path / "data")
    scored = torchrun(command(NAME, "evaluating", files, tmp_path, data), tmp_path)
    assert scored.returncode == 0, scored.stderr[-2000:]
    together = json.loads((tmp_path / "eval" / "summary.json").read_text(encoding="utf-8"))
    run(NAME, "evaluating", files[:2], tmp_path, data)
    alone = json.loads((tmp_path / "eval" / "summary.json").read_text(encoding="utf-8"))
    assert together["cases"] == 2
    assert together["mean_foreground"] == alone["mean_foreground"]


def two_test_cases(brain: Path, folder: Path) -> Path:
    folder.mkdir()
    listed = json.loads((brain / "datalist.json").read_text(encoding="utf-8"))
    for section in ("training", "validation", "test"):
        for item in listed[section]:
            item["image"], item["label"] = str(brain / item["image"]), str(brain / item["label"])
    listed["test"] += [{**listed["validation"][0], "subject": "other"}]
    (folder / "datalist.json").write_text(json.dumps(listed), encoding="utf-8")
    return folder


def test_the_many_process_file_alone_says_how_to_start(brain: Path, tmp_path: Path) -> None:
    result = call(command(NAME, "training", ("train.json", "multi_gpu_train.json"), tmp_path, brain), tmp_path)
    assert result.returncode != 0
    assert "torchrun" in result.stderr.strip().splitlines()[-1]
