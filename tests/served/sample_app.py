# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own app for bundles, as its wheel brings it, and bundles of ours in it, made small."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import nibabel as nib
import torch
from monai.bundle import ConfigParser

from tests.bundles.profiles import ALL_PROFILES
from tests.bundles.runs import INFERENCE, read_json, run

OFFLINE = {"zoo_source": "local", "sam2": "false"}
SEGMENTING = ("sam2_unet", "sam_sp", "desam", "samora")
MATCHING = "anatomical_embedding"
# the store's labels hold two objects, which DeSAM takes for one
CLASSES = {**dict.fromkeys(SEGMENTING, ("background", "Box", "Ball")), "desam": ("background", "Thing"), MATCHING: ()}
KNOBS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"num_classes": 3, "image_size": 64} for name in SEGMENTING},
    "desam": {"object_values": [1, 2]},
    MATCHING: {"base_channels": 4, "embedding_dim": 8, "spacing": 2.0, "refine": False, "ball_radius_mm": 3.0},
}


def copy_app(folder: Path) -> Path:
    """Copy the app ``monaibundle``, which the wheel puts beside the environment's packages."""
    wheel = distribution("monailabel")
    main = next(file for file in wheel.files or () if file.match("sample-apps/monaibundle/main.py"))
    source = Path(str(wheel.locate_file(main))).resolve().parent
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", "model", "logs"))
    return folder


def add_bundle(app: Path, name: str) -> None:
    """Put a bundle into the app's model folder: tiny knobs in its configs, its classes named, random weights."""
    profile, folder = ALL_PROFILES[name], app / "model" / name
    shutil.copytree(profile.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    for config in ("train", "inference"):
        path = folder / "configs" / f"{config}.json"
        content = read_json(path)
        _write(path, content | {knob: value for knob, value in knobs(name).items() if knob in content})
    path = folder / "configs" / "metadata.json"
    metadata = read_json(path)
    for output in metadata["network_data_format"]["outputs"].values():
        output["channel_def"] = {str(index): value for index, value in enumerate(CLASSES[name])}
    _write(path, metadata)
    (folder / "models").mkdir()
    torch.save(_random_weights(folder), folder / "models" / "model.pt")


def knobs(name: str) -> dict[str, Any]:
    """What makes a bundle small; where it runs is the client's to say."""
    return {knob: value for knob, value in {**ALL_PROFILES[name].tiny, **KNOBS[name]}.items() if knob != "device"}


def by_command(app: Path, name: str, scan: Path, folder: Path) -> nib.Nifti1Image:
    """What ``python -m monai.bundle run`` makes of a scan, with the weights that are served."""
    weights = str(app / "model" / name / "models" / "model.pt")
    run(name, "inferring", INFERENCE, folder, scan, **KNOBS[name], ckpt_path=weights)
    return nib.load(folder / "eval" / "predictions" / scan.name)


def _random_weights(folder: Path) -> dict[str, torch.Tensor]:
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    torch.manual_seed(0)
    return parser.get_parsed_content("network_def").state_dict()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
