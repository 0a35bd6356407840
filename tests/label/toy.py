# SPDX-License-Identifier: Apache-2.0
"""A tiny bundle that takes clicks, whose results can be worked out by hand, and scans in any grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from tests.inferers.prompted_toy import PromptedToy

OURS = "monai_ext.transforms"
CONFIG: dict[str, Any] = {
    "bundle_root": ".",
    "device": "cpu",
    "network_def": {"_target_": "tests.inferers.prompted_toy.PromptedToy"},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": f"{OURS}.LoadScand", "keys": ["image"]},
            {"_target_": f"{OURS}.CheckScand", "keys": ["image"], "in_channels": 1},
            {"_target_": "Orientationd", "keys": ["image"], "axcodes": "RAS", "labels": None},
            {"_target_": f"{OURS}.PromptFromRequestd", "keys": ["image"]},
        ],
    },
    "inferer": {"_target_": "monai_ext.inferers.PromptedSliceInferer", "plane": "axial", "batch_size": 4},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": f"{OURS}.KeepPromptsd", "keys": ["pred"]},
            {"_target_": "Invertd", "keys": ["pred"], "transform": "@preprocessing", "orig_keys": ["image"]},
            {"_target_": f"{OURS}.SaveLabelMapd", "keys": ["pred"], "output_dir": "$@bundle_root + '/eval'"},
            {"_target_": f"{OURS}.SavePromptsd", "keys": ["pred"], "output_dir": "$@bundle_root + '/eval'"},
            {"_target_": f"{OURS}.FlattenPictured", "keys": ["pred"]},
        ],
    },
}


def write_bundle(folder: Path) -> Path:
    """Write the bundle with its weights."""
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    formats = {
        "inputs": {"image": {"spatial_shape": ["*", "*"]}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "object"}}},
    }
    metadata = json.dumps({"network_data_format": formats})
    (folder / "configs" / "metadata.json").write_text(metadata, encoding="utf-8")
    torch.save(PromptedToy().state_dict(), folder / "models" / "model.pt")
    return folder


def write_scan(path: Path, seed: int = 0, shape: tuple[int, int, int] = (4, 5, 6)) -> Path:
    """Write noise in an anisotropic, oblique grid."""
    turn = np.array([[0, -1, 0], [0.8, 0, -0.6], [0.6, 0, 0.8]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([0.7, 2.5, 1.2]), [7.0, -20.0, 3.0]
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path
