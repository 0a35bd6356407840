# SPDX-License-Identifier: Apache-2.0
"""A tiny bundle with everything that the shipping commands look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NETWORK = '''
import torch
from monai_ext.networks.layers.lora import LoRAQKV, merge_lora


class ToyNet(torch.nn.Module):
    """Low-rank update, normalisation and the way to and from one image size, as in the real networks."""

    def __init__(self, num_classes=3, image_size=16):
        super().__init__()
        self.image_size = image_size
        self.qkv = LoRAQKV(1, 6, rank=2)
        self.norm = torch.nn.BatchNorm2d(6)
        self.head = torch.nn.Conv2d(6, num_classes, 3, padding=1)

    def forward(self, image):
        size = image.shape[-2:]
        if self.image_size is not None:
            image = torch.nn.functional.interpolate(image, size=(self.image_size, self.image_size), mode="bilinear")
        tokens = self.qkv(image.movedim(1, -1)).movedim(-1, 1)
        return torch.nn.functional.interpolate(self.head(self.norm(tokens)), size=size, mode="bilinear")

    def merge_lora(self):
        merge_lora(self)
'''
INFERENCE = {
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/nowhere'",
    "image_size": 16,
    "device": "$torch.device('cuda')",
    "network_def": {"_target_": "toy.network.ToyNet", "image_size": "@image_size"},
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": ["image"], "ensure_channel_first": True},
            {"_target_": "ScaleIntensityd", "keys": ["image"]},
        ],
    },
    "inferer": {"_target_": "monai_ext.inferers.SliceWiseInferer", "batch_size": 4},
}
TENSOR = {
    "type": "image",
    "format": "magnitude",
    "num_channels": 1,
    "spatial_shape": [16, 16],
    "dtype": "float32",
    "value_range": [0, 1],
    "is_patch_data": False,
    "channel_def": {"0": "image"},
}
METADATA = {
    "schema": "https://example.org/meta_schema_20240725.json",
    "version": "0.1.0",
    "changelog": {"0.1.0": "first"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.6.0",
    "numpy_version": "1.26.0",
    "required_packages_version": {},
    "task": "toy segmentation",
    "description": "A toy.",
    "authors": "us",
    "copyright": "us",
    "network_data_format": {
        "inputs": {"image": TENSOR},
        "outputs": {"pred": {**TENSOR, "num_channels": 3, "channel_def": {"0": "background", "1": "a", "2": "b"}}},
    },
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A bundle called ``toy`` with weights whose low-rank update is not zero."""
    import torch

    bundle = tmp_path / "bundles" / "toy"
    for name in ("configs", "toy", "models", "eval", "toy/__pycache__", "docs"):
        (bundle / name).mkdir(parents=True)
    (bundle / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    (bundle / "docs" / "README.md").write_text("# Toy\n", encoding="utf-8")
    (bundle / ".hidden").write_text("not released", encoding="utf-8")
    (bundle / "eval" / "run.json").write_text("{}", encoding="utf-8")
    (bundle / "toy" / "__init__.py").write_text("", encoding="utf-8")
    (bundle / "toy" / "network.py").write_text(NETWORK, encoding="utf-8")
    (bundle / "toy" / "__pycache__" / "network.pyc").write_bytes(b"\0")
    (bundle / "configs" / "metadata.json").write_text(json.dumps(METADATA), encoding="utf-8")
    (bundle / "configs" / "inference.json").write_text(json.dumps(INFERENCE), encoding="utf-8")
    (bundle / "large_files.yml").write_text(
        "large_files:\n  - path: models/fetched.pt\n    url: https://example.org/fetched.pt\n", encoding="utf-8"
    )
    namespace: dict = {}
    exec(NETWORK, namespace)
    network = namespace["ToyNet"]()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return bundle
