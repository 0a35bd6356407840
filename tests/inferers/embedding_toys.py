# SPDX-License-Identifier: Apache-2.0
"""Networks that embed volumes, small ones and ideal ones, and the volumes that they see."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d

STRIDES = {"local": (2, 2, 2), "global": (4, 16, 16)}


class PoolingToy(nn.Module):
    """Describes a cell by the mean of its voxels' channels, and counts its forward passes.

    Args:
        offset: a setting that changes embeddings but is no weight.
        sameness: of local cells; the more, the more the global embedding decides about a match.
    """

    def __init__(self, offset: float = 0.0, sameness: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.offset, self.sameness = offset, sameness
        self.seen: list[tuple[int, ...]] = []

    @property
    def strides(self) -> dict[str, tuple[int, ...]]:
        return STRIDES

    @property
    def halo(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(STRIDES, (0, 0, 0))

    @property
    def encoder_settings(self) -> dict[str, object]:
        return {"offset": self.offset}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.seen.append(tuple(image.shape[2:]))
        x, one = image * self.weight + self.offset, torch.ones_like(image[:, :1])
        maps = {"local": torch.cat([x, self.sameness * one], dim=1), "global": torch.cat([x, 0.1 * one], dim=1)}
        return {
            name: F.normalize(F.avg_pool3d(maps[name], stride, ceil_mode=True), dim=1)
            for name, stride in STRIDES.items()
        }


class Untouched(nn.Module):
    """A network around another one that counts its passes and pads by itself, with a value of its own."""

    padding_value = -0.3

    def __init__(self, network: ResNetFPN3d) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple[int, ...]] = []

    @property
    def strides(self) -> dict[str, tuple[int, ...]]:
        return self.network.strides

    @property
    def halo(self) -> dict[str, tuple[int, ...]]:
        return self.network.halo

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.seen.append(tuple(image.shape[2:]))
        return self.network(padded(image, self.strides["global"], self.padding_value))


def padded(image: Tensor, block: tuple[int, ...], value: float) -> Tensor:
    """Continue an image (B, C, ...) at the end of each axis to whole blocks."""
    for axis, step in enumerate(block, 2):
        more = -image.shape[axis] % step
        shape = [more if other == axis else side for other, side in enumerate(image.shape)]
        image = torch.cat([image, image.new_full(shape, value)], dim=axis)
    return image


def small_network(**arguments: object) -> ResNetFPN3d:
    """A network whose normalisation has seen images."""
    torch.manual_seed(0)
    network = ResNetFPN3d(**{"base_channels": 2, "embedding_dim": 6, **arguments})  # type: ignore[arg-type]
    for _ in range(3):
        network(torch.rand(2, 1, *(16, 48, 48)[-network.spatial_dims :]))
    return network


def waves(size: tuple[int, ...], affine: Tensor) -> MetaTensor:
    """A scan of 24 channels, each a wave through the world, so that a cell's mean tells its place."""
    axes = [torch.arange(side, dtype=torch.float64) for side in size]
    world = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ affine[:3, :3].T + affine[:3, 3]
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(3, 24, generator=generator, dtype=torch.float64) / 60
    phases = torch.rand(24, generator=generator, dtype=torch.float64) * 2 * math.pi
    return MetaTensor((world @ directions + phases).cos().movedim(-1, 0).float(), affine=affine)
