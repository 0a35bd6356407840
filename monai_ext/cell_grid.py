# SPDX-License-Identifier: Apache-2.0
"""Where the cells of an embedding lie among the voxels that it describes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class CellGrid:
    """A lattice of cells, each standing for a box of voxels.

    Cell ``i`` along an axis with stride s is centred at the voxel position ``s i + (s - 1) / 2``, which is what
    resizing with ``align_corners=False`` means. Positions are continuous, in the order of the tensor's axes; cells
    are numbered with the last axis fastest.

    Args:
        shape: cells along each axis.
        stride: voxels a cell along each axis.

    Raises:
        ValueError: sides that are not positive, or of different number.

    Example:
        >>> grid = CellGrid(shape=(8, 6), stride=(4, 16))
        >>> grid.to_voxels(torch.tensor([[0.0, 1.0]]))
        tensor([[ 1.5000, 23.5000]])
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.stride) or min((*self.shape, *self.stride)) < 1:
            raise ValueError(
                f"shape and stride must be as many positive numbers, got {tuple(self.shape)} and {tuple(self.stride)}."
            )

    def __len__(self) -> int:
        return prod(self.shape)

    def to_voxels(self, cells: Tensor) -> Tensor:
        """Turn positions in cells (..., axes) into positions in voxels."""
        stride = cells.new_tensor(self.stride)
        return cells * stride + (stride - 1) / 2

    def to_cells(self, voxels: Tensor) -> Tensor:
        """Turn positions in voxels (..., axes) into positions in cells."""
        stride = voxels.new_tensor(self.stride)
        return (voxels + 0.5) / stride - 0.5

    def positions(self, device: torch.device | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the positions in cells of all cells, (len(self), axes)."""
        axes = [torch.arange(side, device=device, dtype=dtype) for side in self.shape]
        return torch.cartesian_prod(*axes).reshape(len(self), len(self.shape))

    def contains(self, cells: Tensor) -> Tensor:
        """Say which positions (N, axes) lie among the centres of cells, so that nothing is extrapolated."""
        last = cells.new_tensor(self.shape) - 1
        return ((cells >= 0) & (cells <= last)).all(dim=-1)

    def clamp(self, cells: Tensor) -> Tensor:
        """Move positions (..., axes) to the nearest place among the centres of cells."""
        return torch.minimum(cells.clamp(min=0), cells.new_tensor(self.shape) - 1)

    def number(self, cells: Tensor) -> Tensor:
        """Return the numbers (...) of the cells at whole positions (..., axes)."""
        steps = [prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        return (cells.long() * torch.tensor(steps, device=cells.device)).sum(dim=-1)

    def place(self, numbers: Tensor) -> Tensor:
        """Return the whole positions (..., axes) of the cells with these numbers (...)."""
        return torch.stack(torch.unravel_index(numbers, self.shape), dim=-1)

    def holding(self, voxels: Tensor) -> Tensor:
        """Return the whole positions (..., axes) of the cells whose boxes hold the voxel positions."""
        stride = voxels.new_tensor(self.stride)
        return self.clamp(torch.floor((voxels + 0.5) / stride)).long()

    def corners(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cells between which each position lies, and their weights in a linear interpolation.

        Outside of the centres the nearest cells continue.

        Args:
            cells: positions (N, axes).

        Returns:
            Numbers of cells and weights, both (N, 2 ** axes); each row of weights has the sum 1.
        """
        cells = self.clamp(cells)
        last = cells.new_tensor(self.shape) - 1
        lower = torch.minimum(cells.floor(), (last - 1).clamp(min=0))
        fraction = cells - lower
        numbers, weights = [], []
        for upper in product((False, True), repeat=len(self.shape)):
            step = cells.new_tensor(upper)
            numbers.append(self.number(torch.minimum(lower + step, last)))
            weights.append(torch.where(step.bool(), fraction, 1 - fraction).prod(dim=-1))
        return torch.stack(numbers, dim=-1), torch.stack(weights, dim=-1)
