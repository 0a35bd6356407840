# SPDX-License-Identifier: Apache-2.0
"""A tiny bundle that matches points, and scans of one thing in several grids, so that every match is known."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d

SHAPE = (32, 32, 24)
ARGUMENTS = {"base_channels": 4, "embedding_dim": 8}
INFERENCE = {
    "bundle_root": ".",
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "embedding_dir": None,
    "memory_mb": None,
    "mode": "nn",
    "min_score": 0.7,
    "max_cycle_mm": None,
    "seed": 3,
    "base_channels": 4,
    "device": "$torch.device('cpu')",
    "network_def": {
        "_target_": "monai_ext.networks.nets.resnet_fpn.ResNetFPN3d",
        "base_channels": "@base_channels",
        "embedding_dim": 8,
    },
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "monai_ext.transforms.LoadScand", "keys": ["image"]},
            {"_target_": "Orientationd", "keys": ["image"], "axcodes": "SPL", "labels": None},
            {"_target_": "monai_ext.transforms.ScaleScand", "keys": ["image"]},
        ],
    },
    "embedder": {
        "_target_": "monai_ext.inferers.VolumeEmbedder",
        "memory_mb": "@memory_mb",
        "cache_dir": "@embedding_dir",
    },
    "matcher": {
        "_target_": "monai_ext.matching.PointMatcher",
        "mode": "@mode",
        "min_score": "@min_score",
        "max_cycle_mm": "@max_cycle_mm",
        "refine": False,
    },
}


def write_bundle(folder: Path, weights: bool = True) -> Path:
    """Write a bundle; its network is random, which is enough to find a place that looks the same."""
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text('{"version": "0.1.0"}', encoding="utf-8")
    (folder / "configs" / "inference.json").write_text(json.dumps(INFERENCE), encoding="utf-8")
    if weights:
        torch.manual_seed(0)
        (folder / "models").mkdir()
        torch.save(ResNetFPN3d(**ARGUMENTS).state_dict(), folder / "models" / "model.pt")
    return folder


def grid(turn: float = 0.0, shift: tuple[float, float, float] = (0, 0, 0), spacing: float = 2.0) -> NDArray[np.float64]:
    """From voxels to RAS mm: isotropic, turned about the z axis by degrees, moved by mm."""
    cosine, sine = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    affine = np.eye(4)
    affine[:3, :3] = spacing * np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine[:3, 3] = shift
    return affine


def voxels(seed: int = 0) -> NDArray[np.float32]:
    """Smooth noise, no two places of which look the same."""
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    return (1000 * gaussian_filter(noise, 1.5)).astype(np.float32)


def write_scan(path: Path, affine: NDArray[np.float64], seed: int = 0, codes: str = "RAS") -> Path:
    """Write the voxels as seen by a grid, stored with their axes in another order and direction."""
    image = nib.Nifti1Image(voxels(seed), affine)
    wanted = nib.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), wanted))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(turned, path)
    return path


def places(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Voxel positions in the middle of local cells, (count, 3), away from the border."""
    rng = np.random.default_rng(seed)
    cells = np.stack([rng.permutation(side // 2 - 6)[:count] + 3 for side in SHAPE], axis=1)
    middle = np.array([0.5, 0.5, 0.5])
    return 2.0 * cells + middle


def world(affine: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """RAS mm of voxel positions."""
    return positions @ affine[:3, :3].T + affine[:3, 3]


def write_points(path: Path, points: NDArray[np.float64], names: list[str] | None = None, **columns: list[str]) -> Path:
    """Write RAS mm as CSV."""
    names = names or [f"p{index}" for index in range(len(points))]
    header = ["point", "x_ras_mm", "y_ras_mm", "z_ras_mm", *columns]
    rows = [
        [f'"{name}"', *map(str, point), *further]
        for name, point, *further in zip(names, points.tolist(), *columns.values(), strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n", encoding="utf-8")
    return path
