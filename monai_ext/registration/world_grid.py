# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of a volume lie in the world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

POINTS_AT_ONCE = 1 << 18  # 6 MB of positions in double precision


@dataclass(frozen=True, eq=False)
class WorldGrid:
    """A box of voxels: its sides, and the affine from voxel positions to RAS mm.

    Positions are continuous, in the order of the tensor's axes; whole numbers are the centres of voxels. The affine
    may turn, mirror, stretch and shear.

    Args:
        shape: voxels along the three axes.
        affine: (4, 4), from voxels to RAS mm; kept in double precision on the CPU.

    Raises:
        ValueError: another number of axes, an empty one, or an affine that cannot be inverted.

    Example:
        >>> grid = WorldGrid((4, 5, 6), torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
        >>> grid.spacing, grid.to_world(torch.ones(1, 3)).tolist()
        ((2.0, 2.0, 3.0), [[2.0, 2.0, 3.0]])
    """

    shape: tuple[int, ...]
    affine: Tensor

    def __post_init__(self) -> None:
        shape = tuple(int(side) for side in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be three positive numbers, got {shape}.")
        affine = torch.as_tensor(self.affine).detach().as_subclass(Tensor).to("cpu", torch.float64)
        if affine.shape != (4, 4) or not affine.isfinite().all() or torch.linalg.det(affine[:3, :3]) == 0:
            raise ValueError(f"affine must be (4, 4) and invertible, got {affine.tolist()}.")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def of(cls, image: MetaTensor) -> WorldGrid:
        """Return the grid of an image (C, X, Y, Z) as MONAI's `LoadImage` and `EnsureChannelFirst` give it."""
        return cls(tuple(image.shape[1:]), image.affine)

    def __len__(self) -> int:
        return prod(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres between neighbouring voxels along each axis."""
        return tuple(self.affine[:3, :3].norm(dim=0).tolist())

    def to_world(self, voxels: Tensor) -> Tensor:
        """Turn voxel positions (..., 3) into RAS mm, in double precision."""
        affine = self.affine.to(voxels.device)
        return voxels.double() @ affine[:3, :3].T + affine[:3, 3]

    def to_voxels(self, world: Tensor) -> Tensor:
        """Turn RAS mm (..., 3) into voxel positions, in double precision."""
        affine = self.affine.to(world.device)
        return (world.double() - affine[:3, 3]) @ torch.linalg.inv(affine[:3, :3]).T

    def contains(self, voxels: Tensor) -> Tensor:
        """Say which voxel positions (..., 3) lie in one of the voxels, as ITK decides it."""
        return ((voxels >= -0.5) & (voxels < voxels.new_tensor(self.shape) - 0.5)).all(dim=-1)

    def slabs(self) -> Iterator[slice]:
        """Yield parts of the first axis that have few enough voxels to be worked on at once."""
        depth = max(1, POINTS_AT_ONCE // prod(self.shape[1:]))
        for first in range(0, self.shape[0], depth):
            yield slice(first, min(first + depth, self.shape[0]))

    def points(self, slab: slice = slice(None), device: torch.device | None = None) -> Tensor:
        """Return the centres (N, 3) of all voxels, or of a slab of the first axis, in RAS mm; last axis fastest."""
        axes = [torch.arange(side, dtype=torch.float64, device=device) for side in self.shape]
        return self.to_world(torch.cartesian_prod(axes[0][slab], *axes[1:]))

    def padded(self, margin_mm: float) -> WorldGrid:
        """Return the same lattice with at least so many mm more on each side."""
        more = [ceil(margin_mm / step - 1e-6) for step in self.spacing]  # 2 mm may be 2.0000000001
        affine = self.affine.clone()
        affine[:3, 3] = self.to_world(-affine.new_tensor(more))
        return WorldGrid(tuple(side + 2 * m for side, m in zip(self.shape, more, strict=True)), affine)

    def refined(self) -> WorldGrid:
        """Return a grid of the same box with twice as many voxels along each axis."""
        affine = self.affine.clone()
        affine[:3, :3] /= 2
        affine[:3, 3] = self.to_world(affine.new_full((3,), -0.25))
        return WorldGrid(tuple(2 * side for side in self.shape), affine)
