# SPDX-License-Identifier: Apache-2.0
"""What an ideal network says of one anatomy, and grids that lie in the world in all ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations, product

import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor

from monai_ext.matching import VolumeEmbedding
from monai_ext.registration import WorldDisplacement, WorldGrid

STRIDES = ((2, 2, 2), (4, 4, 4))


def voxels_of(spacing: tuple[float, ...] = (2.0, 2.0, 2.0), offset: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Tensor:
    matrix = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    matrix[:3, 3] = torch.tensor(offset)
    return matrix


def described(world: Tensor) -> Tensor:
    """A unit vector (N, 48) that depends on the place (N, 3) alone (random waves)."""
    generator = torch.Generator().manual_seed(3)
    waves = torch.randn(3, 48, generator=generator, dtype=torch.float64) / 12
    phase = torch.rand(48, generator=generator, dtype=torch.float64) * 2 * math.pi
    return F.normalize((world @ waves + phase).cos(), dim=1)


def embedded(
    size: tuple[int, ...], affine: Tensor, to_anatomy: Callable[[Tensor], Tensor] = lambda world: world
) -> VolumeEmbedding:
    """Embeddings of a volume whose place x shows the anatomy at ``to_anatomy(x)``."""
    maps = []
    for stride in STRIDES:
        shape = [-(-side // step) for side, step in zip(size, stride, strict=True)]
        axes = [torch.arange(n, dtype=torch.float64) * s + (s - 1) / 2 for n, s in zip(shape, stride, strict=True)]
        world = torch.cartesian_prod(*axes) @ affine[:3, :3].T + affine[:3, 3]
        maps.append(described(to_anatomy(world)).T.reshape(-1, *shape).float())
    return VolumeEmbedding(dict(zip(("local", "global"), maps, strict=True)), affine, size, *STRIDES)


def turned(
    angles: tuple[float, ...] = (6.0, -4.0, 5.0),
    scales: tuple[float, ...] = (1.05, 0.97, 1.02),
    shift: tuple[float, ...] = (4.0, -3.0, 2.0),
) -> Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.from_numpy(Rotation.from_euler("xyz", angles, degrees=True).as_matrix())
    matrix[:3, :3] *= torch.tensor(scales)
    matrix[:3, 3] = torch.tensor(shift)
    return matrix


def mapped(matrix: Tensor, points: Tensor) -> Tensor:
    return points.double() @ matrix[:3, :3].T + matrix[:3, 3]


def bump(points: Tensor, height: float = 5.0, width: float = 22.0) -> Tensor:
    """A smooth displacement (N, 3), strongest at (40, 40, 40) mm."""
    near = torch.exp(-0.5 * ((points - 40) / width).square().sum(dim=1, keepdim=True))
    return height * near * points.new_tensor([0.6, -0.7, 0.4])


def smooth_values(shape: tuple[int, ...], size: float, seed: int, channels: int = 3) -> Tensor:
    """Slowly varying random values (C, *shape) of about a size."""
    coarse = torch.randn(1, channels, 3, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return size * F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0]


def smooth_field(grid: WorldGrid, size: float = 3.0, seed: int = 0) -> WorldDisplacement:
    return WorldDisplacement(smooth_values(grid.shape, size, seed), grid)


def orientations() -> list[Tensor]:
    """All 48 ways in which three axes can be named and pointed, as (3, 3) matrices."""
    eye = torch.eye(3, dtype=torch.float64)
    return [
        eye[list(order)] * torch.tensor(signs, dtype=torch.float64)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
