# SPDX-License-Identifier: Apache-2.0
"""A bundle whose network knows anatomy: the scan's three channels say which place of it each voxel shows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.followup.toy_bundle import INFERENCE, SHAPE, world

Places = NDArray[np.float64]


class AnatomyNetwork(nn.Module):
    """Unit vectors that depend on the place alone (random waves), so that neighbours resemble each other."""

    strides: ClassVar = {"local": (2, 2, 2), "global": (4, 4, 4)}

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("waves", torch.randn(48, 3, 1, 1, 1, generator=generator) / 12)
        self.register_buffer("phase", torch.rand(48, generator=generator) * 2 * math.pi)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, stride in self.strides.items():
            angles = F.conv3d(F.avg_pool3d(image, stride), self.waves, self.phase)
            found[name] = F.normalize(angles.cos(), dim=1)
        return found


def write_anatomy_bundle(folder: Path) -> Path:
    inference = deepcopy(INFERENCE)
    inference["network_def"] = {"_target_": "tests.commands.anatomy_bundle.AnatomyNetwork"}
    inference["preprocessing"]["transforms"][2]["mode"] = "none"  # type: ignore[index]
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text('{"version": "0.1.0"}', encoding="utf-8")
    (folder / "configs" / "inference.json").write_text(json.dumps(inference), encoding="utf-8")
    (folder / "models").mkdir()
    torch.save(AnatomyNetwork().state_dict(), folder / "models" / "model.pt")
    return folder


def write_anatomy(path: Path, affine: Places, to_anatomy: Callable[[Places], Places] = lambda place: place) -> Places:
    """Write a scan that shows ``to_anatomy(x)`` at each place x (N, 3) of its world, and return the places."""
    at = world(affine, np.stack(np.indices(SHAPE), axis=-1).reshape(-1, 3).astype(float))
    nib.save(nib.Nifti1Image(to_anatomy(at).reshape(*SHAPE, 3).astype(np.float32), affine), path)
    return at


class AnatomyDeformation(nn.Module):
    """The ideal displacement between scans that show places and nearly fit: the distance of what they show.

    Scans have voxels of 2 mm along S, P and L, and places are in RAS mm. Towards their ends, where the moving scan may
    not reach, it fades away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("to_voxels", torch.tensor([[0.0, 0, 1], [0, -1, 0], [-1, 0, 0]]) / 2)

    def forward(self, image: Tensor) -> Tensor:
        moving, fixed = image.chunk(2, dim=1)
        inside = torch.zeros_like(image[:, :1])
        inside[:, :, 4:20, 4:28, 4:28] = 1
        inside = F.avg_pool3d(inside, 5, stride=1, padding=2)
        return torch.einsum("ij,bjxyz->bixyz", self.to_voxels, (fixed - moving).clamp(-5, 5)) * inside


class WaveDeformation(nn.Module):
    """A smooth displacement of up to 1.2 voxels whatever the scans show; it moves nothing at their ends."""

    def __init__(self, voxels: float = 1.2) -> None:
        super().__init__()
        self.register_buffer("voxels", torch.tensor(voxels))

    def forward(self, image: Tensor) -> Tensor:
        waves = [torch.sin(torch.linspace(0, math.pi, side)) ** 2 for side in image.shape[2:]]
        height = torch.einsum("x,y,z->xyz", *waves)
        return self.voxels * torch.stack([height, -0.5 * height, 0.7 * height])[None]


def write_deformation_bundle(folder: Path, network: type[nn.Module], mode: str = "none", weights: bool = True) -> Path:
    """Write a bundle whose network takes the step deform."""
    inference = deepcopy(INFERENCE)
    inference["network_def"] = {"_target_": f"{network.__module__}.{network.__name__}"}
    inference["preprocessing"]["transforms"][2]["mode"] = mode  # type: ignore[index]
    unused = ("embedder", "matcher", "embedding_dir", "memory_mb", "mode", "min_score", "max_cycle_mm")
    inference = {name: value for name, value in inference.items() if name not in unused}
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text('{"version": "0.2.0"}', encoding="utf-8")
    (folder / "configs" / "inference.json").write_text(json.dumps(inference), encoding="utf-8")
    if weights:
        (folder / "models").mkdir()
        torch.save(network().state_dict(), folder / "models" / "model.pt")
    return folder
