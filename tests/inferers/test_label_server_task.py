# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own inference task runs our transforms and inferer from a bundle's config, unchanged."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

bundle = pytest.importorskip("monailabel.tasks.infer.bundle", reason="pip install --no-deps monailabel==0.8.5")


def config(channels: int, mode: str) -> dict[str, Any]:
    ours = "monai_ext.transforms"
    return {
        "bundle_root": ".",
        "device": "cpu",
        "network_def": {"_target_": "torch.nn.Conv2d", "in_channels": channels, "out_channels": 1, "kernel_size": 1},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": f"{ours}.LoadScand", "keys": ["image"]},
                {"_target_": f"{ours}.CheckScand", "keys": ["image"], "in_channels": channels},
                {"_target_": "Orientationd", "keys": ["image"], "axcodes": "RAS", "labels": None},
                {"_target_": f"{ours}.ScaleScand", "keys": ["image"], "mode": mode},
            ],
        },
        "inferer": {"_target_": "monai_ext.inferers.SliceWiseInferer", "plane": "coronal", "batch_size": 3},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Invertd", "keys": ["pred"], "transform": "@preprocessing", "orig_keys": ["image"]},
                {"_target_": f"{ours}.SaveLabelMapd", "keys": ["pred"], "output_dir": "$@bundle_root + '/eval'"},
                {"_target_": f"{ours}.FlattenPictured", "keys": ["pred"]},
            ],
        },
    }


def task(folder: Path, channels: int, mode: str, dimensions: int) -> Any:
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config(channels, mode)), encoding="utf-8")
    channel_def = {"0": "background", "1": "object"}
    formats = {
        "inputs": {"image": {"spatial_shape": ["*"] * dimensions}},
        "outputs": {"pred": {"channel_def": channel_def}},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": formats}), encoding="utf-8")
    weight = torch.zeros(1, channels, 1, 1)
    weight[0, 0] = 1
    torch.save({"weight": weight, "bias": torch.tensor([-0.5])}, folder / "models" / "model.pt")
    return bundle.BundleInferTask(str(folder), {})


def volume(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    affine = np.array([[0, 0, -2.5, 3], [0.7, 0, 0, 4], [0, -1.2, 0, 5], [0, 0, 0, 1]])
    values = np.random.rand(*shape).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), path)
    return values


def test_volumes_come_back_in_their_own_grid_from_several_threads(tmp_path: Path) -> None:
    server = task(tmp_path / "toy", channels=1, mode="none", dimensions=3)
    paths = [tmp_path / f"{i}.nii.gz" for i in range(4)]
    values = [volume(path, (4 + i, 5, 6)) for i, path in enumerate(paths)]
    with ThreadPoolExecutor(2) as pool:
        requests = [{"device": "cpu", "image": str(path), "result_extension": ".nii.gz"} for path in paths]
        results = list(pool.map(server, requests))
    for (file, answer), path, expected in zip(results, paths, values, strict=True):
        labels = nib.load(file)
        np.testing.assert_array_equal(np.asarray(labels.dataobj), expected > 0.5)
        np.testing.assert_allclose(labels.affine, nib.load(path).affine, atol=1e-5)
        assert answer["label_names"] == {"object": 1}
    assert not (tmp_path / "toy" / "eval").exists()


def test_pictures_come_back_upright(tmp_path: Path) -> None:
    server = task(tmp_path / "toy", channels=3, mode="unit", dimensions=2)
    values = np.random.randint(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    file, _ = server({"device": "cpu", "image": str(tmp_path / "photo.png"), "result_dtype": "uint8"})
    np.testing.assert_array_equal(np.asarray(Image.open(file)), values[..., 0] > 127.5)
