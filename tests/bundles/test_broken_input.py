# SPDX-License-Identifier: Apache-2.0
"""Wrong input gets one clear line, and nothing that was written before is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_ext.errors import message_of
from tests.bundles.profiles import Profile
from tests.bundles.runs import INFERENCE, TRAIN, command, read_json, refused, train_and_evaluate
from tests.bundles.warm_python import WarmPython


@pytest.fixture
def copy(brain: Path, profile: Profile, tmp_path: Path) -> Path:
    """A copy of the data, to be broken; the path that is given as ``dataset_dir``."""
    shutil.copytree(brain, tmp_path / "brain")
    return tmp_path / "brain" / profile.data


def list_of(data: Path) -> Path:
    return data / "datalist.json" if data.is_dir() else data


def first(data: Path, key: str) -> Path:
    return list_of(data).parent / read_json(list_of(data))["training"][0][key]


def change(path: Path, edit: Callable[[np.ndarray], np.ndarray], shift: float = 0.0) -> None:
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += shift
    nib.save(nib.Nifti1Image(edit(np.asarray(image.dataobj)), affine), path)


def with_nan(voxels: np.ndarray) -> np.ndarray:
    voxels = voxels.astype(np.float32)
    voxels[3, 3, 3] = np.nan
    return voxels


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing folder": (lambda d: shutil.rmtree(list_of(d).parent), "brain"),
    "missing image": (lambda d: first(d, "image").unlink(), "training"),
    "truncated": (lambda d: truncate(first(d, "image")), "training"),
    "empty file": (lambda d: first(d, "image").write_bytes(b""), "training"),
    "no image at all": (lambda d: first(d, "image").write_bytes(b"hello" * 99), "training"),
    "NaN voxels": (lambda d: change(first(d, "image"), with_nan), "NaN"),
    "class that does not exist": (lambda d: change(first(d, "label"), lambda v: v + 9), "num_classes"),
    "other shape": (lambda d: change(first(d, "label"), lambda v: v[:-1]), "grid"),
    "other place": (lambda d: change(first(d, "label"), lambda v: v, shift=9.0), "9 mm"),
    "data list that is no JSON": (lambda d: list_of(d).write_text("{", encoding="utf-8"), "datalist"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_data_is_named_and_nothing_is_lost(fault: str, profile: Profile, copy: Path, tmp_path: Path) -> None:
    BROKEN[fault][0](copy)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"precious")
    message = message_of(refused(profile.name, "training", TRAIN, tmp_path, copy))
    assert BROKEN[fault][1] in message
    assert "\n" not in message
    assert (tmp_path / "models" / "model.pt").read_bytes() == b"precious"


def test_the_program_prints_one_line_and_fails(profile: Profile, copy: Path, warm: WarmPython, tmp_path: Path) -> None:
    change(first(copy, "image"), with_nan)
    result = warm.call(command(profile.name, "training", TRAIN, tmp_path, copy, num_workers=1), tmp_path)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "training" in line
    assert "doctor" in line


def test_labels_without_any_object_are_legal(profile: Profile, copy: Path, tmp_path: Path) -> None:
    for section in ("training", "validation", "test"):
        for item in read_json(list_of(copy))[section]:
            change(list_of(copy).parent / item["label"], np.zeros_like)
    train_and_evaluate(profile.name, tmp_path, copy)
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert all(w.isfinite().all() for w in state.values())
    assert read_json(tmp_path / "eval" / "history.json")["epochs"][0]["train_loss"] < 100


def test_weights_of_another_architecture_are_refused(
    profile: Profile, trained: Path, data: Path, tmp_path: Path
) -> None:
    knobs, reason = profile.misfit
    weights = str(trained / "models" / "model.pt")
    refusal = refused(profile.name, "inferring", INFERENCE, tmp_path, data, ckpt_path=weights, **knobs)
    assert reason in message_of(refusal)


def test_missing_weights_say_how_to_get_some(profile: Profile, data: Path, tmp_path: Path) -> None:
    assert "train first" in message_of(refused(profile.name, "inferring", INFERENCE, tmp_path, data))


@pytest.mark.parametrize("knob", ["amp", "use_checkpoint"])
def test_a_switch_in_the_wrong_spelling_is_not_taken_for_true(
    knob: str, profile: Profile, data: Path, tmp_path: Path
) -> None:
    refusal = refused(profile.name, "training", TRAIN, tmp_path, data, **{knob: "false"})
    assert f"--{knob} False" in message_of(refusal)
