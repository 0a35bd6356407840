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
