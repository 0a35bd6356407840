# SPDX-License-Identifier: Apache-2.0
"""Any number of classes and channels, precision, accumulation, clipping, compilation: knobs of every bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_ext.errors import message_of
from tests.bundles.profiles import PROFILES, Profile
from tests.bundles.runs import TRAIN, read_json, refused, run, train_and_evaluate

VARIANTS = [
    pytest.param(profile.name, knobs, id=f"{profile.name}-{shown}")
    for profile in PROFILES.values()
    for shown, knobs in profile.variants.items()
]


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


@pytest.mark.parametrize(("name", "knobs"), VARIANTS)
def test_knobs_train_and_evaluate(name: str, knobs: dict[str, Any], brain: Path, tmp_path: Path) -> None:
    tiny = {**PROFILES[name].tiny, **knobs}
    data = derived_data(brain, tmp_path / "data", tiny["in_channels"], tiny["num_classes"])
    summary = train_and_evaluate(name, tmp_path, data, **knobs)
    assert summary["cases"] == 1
    assert len(summary["classes"]) == max(tiny["num_classes"] - 1, 1)
    record = read_json(tmp_path / "eval" / "run.json")["knobs"]
    assert {knob: record[knob] for knob in knobs if knob in record} == {k: v for k, v in knobs.items() if k in record}


def test_every_bundle_shows_the_numbers_that_the_checklist_names(profile: Profile) -> None:
    variants = [{**profile.tiny, **knobs} for knobs in profile.variants.values()]
    assert {1, 2, 13} <= {knobs["num_classes"] for knobs in variants}
    assert 4 in {knobs["in_channels"] for knobs in variants}
    assert any(knobs.get("amp") and knobs.get("clip_norm") and knobs.get("accumulation_steps") for knobs in variants)


def test_a_compiled_network_trains(profile: Profile, data: Path, tmp_path: Path) -> None:
    eager = {"train#trainer#compile_kwargs": {"backend": "eager"}}  # its graphs, without minutes of compiling them
    run(profile.name, "training", TRAIN, tmp_path, data, compile=True, **eager)
    names = torch.load(tmp_path / "models" / "model.pt", weights_only=True).keys()
    assert names == profile.network(**profile.arguments).state_dict().keys()


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_files(
    profile: Profile, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"precious")
    message = message_of(refused(profile.name, "training", TRAIN, tmp_path, data, learning_rate=1e30))
    assert "training" in message
    assert "learning_rate" in message
    assert "\n" not in message
    assert (tmp_path / "models" / "model.pt").read_bytes() == b"precious"
