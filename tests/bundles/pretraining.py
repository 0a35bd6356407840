# SPDX-License-Identifier: Apache-2.0
"""How tests run SAMora's first stage: each of its five configs, tiny, and never from the bundle's folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_ext.errors import InputError, find_input_error
from tests.bundles.runs import bundle, configs, options, read_json

NAME = "samora"
STUDENTS = ("pretrain_image", "pretrain_patch", "pretrain_pixel")
TEACHERS = ("pretrain_image_teacher", "pretrain_patch_teacher")
STAGES = (*TEACHERS, *STUDENTS)
SIDE = 32
EPOCHS = 2

_ALL = {
    "image_size": SIDE, "batch_size": 8, "num_workers": 0, "max_epochs": EPOCHS, "tensorboard": False, "device": "cpu",
}  # fmt: skip
_STUDENT = {**_ALL, "sam_type": "vit_tiny", "lora_rank": 2}
_UNTRAINED = {"teacher": "small", "untrained_teacher": True}
TINY: dict[str, dict[str, Any]] = {
    "pretrain_image": {**_STUDENT, **_UNTRAINED},
    "pretrain_patch": {**_STUDENT, **_UNTRAINED, "teacher_size": SIDE},
    "pretrain_pixel": {**_STUDENT, "decoder_channels": [256, 8, 8, 8, 8]},
    "pretrain_image_teacher": {**_ALL, **_UNTRAINED},
    "pretrain_patch_teacher": {**_ALL, **_UNTRAINED},
}


def written(stage: str, folder: Path) -> Path:
    """The file that a run of this stage is for."""
    level = stage.split("_")[1]
    return folder / "models" / f"{'teacher' if stage in TEACHERS else 'expert'}_{level}.safetensors"


def knobs(stage: str, folder: Path, data: Path, **more: Any) -> dict[str, Any]:
    """Tiny knobs, and everything that is written goes into ``folder``."""
    places = {"dataset_dir": str(data), "output_dir": str(folder / "eval"), "ckpt_dir": str(folder / "models")}
    return {**TINY[stage], **places, **more}


def pretrain(stage: str, folder: Path, data: Path, files: tuple[str, ...] = (), **more: Any) -> Path:
    """Run a stage in this process as ``python -m monai.bundle run training`` does; return its folder."""
    from monai.bundle import run as run_bundle

    hook = sys.excepthook  # the configs set their own
    try:
        run_bundle(
            run_id="training",
            config_file=configs(NAME, f"{stage}.json", *files),
            bundle_root=str(bundle(NAME)),
            logging_file=False,
            **knobs(stage, folder, data, **more),
        )
    finally:
        sys.excepthook = hook
    return folder


def refused(stage: str, folder: Path, data: Path, **more: Any) -> InputError:
    """Run a stage that must refuse what it is given; return the refusal."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what we raise
        pretrain(stage, folder, data, **more)
    found = find_input_error(caught.value)
    assert isinstance(found, InputError), repr(caught.value)
    return found


def command(stage: str, folder: Path, data: Path, files: tuple[str, ...] = (), **more: Any) -> list[str]:
    """Return the same as `pretrain` as a command line."""
    given = str(configs(NAME, f"{stage}.json", *files))
    words = ["-m", "monai.bundle", "run", "training", "--bundle_root", str(bundle(NAME)), "--config_file", given]
    return [*words, *options(**knobs(stage, folder, data, **more))]


def network_before(stage: str, data: Path, **more: Any) -> torch.nn.Module:
    """The network of a stage as a run starts with it."""
    hook = sys.excepthook
    workflow = ConfigWorkflow(
        configs(NAME, f"{stage}.json"), bundle_root=str(bundle(NAME)), logging_file=False,
        **knobs(stage, Path("nowhere"), data, **more),
    )  # fmt: skip
    try:
        workflow.initialize()
        return workflow.parser.get_parsed_content("network_def")
    finally:
        sys.excepthook = hook


def checkpoint(folder: Path) -> dict[str, Any]:
    """What the last epoch left of the network: ``weights`` and the hash of what is ``frozen``."""
    return torch.load(folder / "eval" / "checkpoint.pt", weights_only=True)["objects"]["network"]


def history(folder: Path) -> list[dict[str, Any]]:
    """A row for each epoch."""
    return read_json(folder / "eval" / "history.json")["epochs"]


def losses(folder: Path) -> list[tuple[int, float, float]]:
    """Epoch, loss, and loss on what is held out."""
    return [(row["epoch"], row["train_loss"], row["val_held_out_loss"]) for row in history(folder)]
