# SPDX-License-Identifier: Apache-2.0
"""Where SAM2-UNet's weights come from, and several tasks on one network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from sam2_unet.network import SAM2UNet

from monai_ext.commands._fire import main
from monai_ext.networks.checkpoints import trunk_state
from tests.bundles.profiles import SAM2_UNET, Profile
from tests.bundles.runs import INFERENCE, TRAIN, options, run
from tests.networks.test_checkpoints import as_sam2

NAME = SAM2_UNET.name


def test_training_starts_from_converted_weights_of_sam2(brain: Path, tmp_path: Path) -> None:
    source = SAM2UNet(backbone="nano").eval()
    torch.save(as_sam2(source, later=True), tmp_path / "sam2.1.pt")
    words = options(source=tmp_path / "sam2.1.pt", output=tmp_path / "trunk.pt")
    assert main(["convert", str(SAM2_UNET.folder), *words]) == 0
    run(NAME, "training", TRAIN, tmp_path, brain, tuning="frozen", pretrained=str(tmp_path / "trunk.pt"))
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    trunk = trunk_state(source)
    assert trunk
    assert all(torch.equal(weights[name], weight) for name, weight in trunk.items())


def test_a_task_is_switched_on_a_network_that_stays(
    run_of: Callable[[Profile], Path], brain: Path, tmp_path: Path
) -> None:
    trained = run_of(SAM2_UNET)
    shutil.copytree(trained / "models", tmp_path / "models")
    tasks = tmp_path / "models" / "tasks"
    state = torch.load(tasks / "main.pt", weights_only=True)
    state["head.bias"] = torch.tensor([0.0, 0.0, 0.0, 1e4])  # sees white matter everywhere
    torch.save(state, tasks / "other.pt")
    volumes = {}
    for task in ("main", "other"):
        run(NAME, "inferring", INFERENCE, tmp_path, brain / "brain" / "image.nii.gz", task=task)
        volumes[task] = np.asarray(nib.load(tmp_path / "eval" / "predictions" / "image.nii.gz").dataobj)
    assert not (volumes["main"] == 3).all()
    assert (volumes["other"] == 3).all()
