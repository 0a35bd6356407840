# SPDX-License-Identifier: Apache-2.0
"""Displacements in mm on a grid of the world."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_ext.registration._sampling import sample_linear
from monai_ext.registration.world_grid import WorldGrid


class WorldDisplacement:
    """The map ``x -> x + d(x)`` of RAS mm, with d given on a grid and linear in between.

    What ITK's ``DisplacementFieldTransform`` computes: up to the faces of the outermost voxels their displacement
    continues, and beyond the field nothing moves. (`at` with ``continued=True`` goes on with it beyond.)

    Args:
        values: (3, *grid.shape), mm along R, A and S; kept in double precision.
        grid: where they lie.

    Raises:
        ValueError: another shape, or values that are not finite.

    Example:
        >>> grid = WorldGrid((2, 2, 2), torch.eye(4))
        >>> field = WorldDisplacement(torch.ones(3, 2, 2, 2), grid)
        >>> field(torch.tensor([[0.5, 0.5, 0.5], [9.0, 9.0, 9.0]])).tolist()
        [[1.5, 1.5, 1.5], [9.0, 9.0, 9.0]]
    """

    def __init__(self, values: Tensor, grid: WorldGrid) -> None:
        if values.shape != (3, *grid.shape):
            raise ValueError(f"values must be {(3, *grid.shape)}, got {tuple(values.shape)}.")
        if not values.isfinite().all():
            raise ValueError("values must be finite; some are NaN or infinite.")
        self.values = values.detach().as_subclass(Tensor).double()
        self.grid = grid

    @classmethod
    def from_voxels(cls, ddf: Tensor, grid: WorldGrid) -> WorldDisplacement:
        """Make a field of what MONAI's `Warp` takes: (3, *grid.shape) in voxels of the grid, along its axes."""
        linear = grid.affine[:3, :3].to(ddf.device)
        return cls(torch.einsum("ij,jxyz->ixyz", linear, ddf.detach().double()), grid)

    @classmethod
    def sampled(cls, transform: Callable[[Tensor], Tensor], grid: WorldGrid) -> WorldDisplacement:
        """Make one dense field of any map of points (N, 3): of a chain of them, it is their composition."""
        parts = []
        for slab in grid.slabs():
            points = grid.points(slab)
            moved = transform(points).cpu() - points
            parts.append(moved.T.reshape(3, -1, *grid.shape[1:]))
        return cls(torch.cat(parts, dim=1), grid)

    def to_voxels(self) -> Tensor:
        """Return the displacements (3, *grid.shape) in voxels of the grid, along its axes, for MONAI's `Warp`."""
        inverse = torch.linalg.inv(self.grid.affine[:3, :3]).to(self.values.device)
        return torch.einsum("ij,jxyz->ixyz", inverse, self.values)

    def to(self, device: torch.device | str) -> WorldDisplacement:
        """Return the field on a device."""
        return WorldDisplacement(self.values.to(device), self.grid)

    def __call__(self, points: Tensor) -> Tensor:
        """Map points (N, 3) in RAS mm, in double precision, on the field's device."""
        points = points.to(self.values.device, torch.float64)
        return points + self.at(points)

    def at(self, points: Tensor, continued: bool = False) -> Tensor:
        """Return the displacement (N, 3) in mm at points (N, 3)."""
        voxels = self.grid.to_voxels(points.to(self.values.device))
        moved = sample_linear(self.values, voxels).T
        return moved if continued else moved * self.grid.contains(voxels)[:, None]

    def source_of(
        self, points: Tensor, continued: bool = False, iterations: int = 100, tolerance_mm: float = 1e-4
    ) -> Tensor:
        """Return where points (N, 3) come from: x with ``x + d(x) = point``, by fixed-point iteration.

        Where a step makes things worse, the next one is half as long. Points beyond the field that nothing inside
        leads to stay where they are, unless the field is taken to be ``continued``. Where it folds or ends there may
        be no source at all: map the result forward and compare.
        """
        points = points.to(self.values.device, torch.float64)
        found = points - self.at(points, continued=True)
        step = torch.ones_like(found[:, :1])
        active = torch.arange(len(points), device=points.device)
        before = torch.full_like(step[:, 0], torch.inf)
        for _ in range(iterations):
            wrong = found[active] + self.at(found[active], continued=True) - points[active]
            size = wrong.norm(dim=1)
            step[active] *= torch.where(size > before[active], 0.5, 1.0)[:, None]
            before[active] = size
            found[active] -= step[active] * wrong
            active = active[size > tolerance_mm]
            if not len(active):
                break
        if continued:
            return found
        beyond = [~self.grid.contains(self.grid.to_voxels(each)) for each in (found, points)]
        return torch.where((beyond[0] & beyond[1])[:, None], points, found)
