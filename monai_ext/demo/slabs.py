# SPDX-License-Identifier: Apache-2.0
"""Which axial slab of the brain is for training, which for validation and which for the test."""

from __future__ import annotations

from dataclasses import dataclass

from monai_ext.demo.grid import VoxelGrid

_TOLERANCE_MM = 1e-6


@dataclass(frozen=True)
class AxialSlab:
    """A part of the data list and the heights it may use.

    Args:
        part: section of the data list.
        lower: lower face in mm (RAS z).
        upper: upper face in mm.
    """

    part: str
    lower: float
    upper: float

    def slices(self, grid: VoxelGrid) -> slice:
        """Return the slices that lie within the slab with their whole thickness.

        Example:
            >>> SLABS[0].slices(VoxelGrid((197, 233, 189), (1.0, 1.0, 1.0), (-98.5, -134.5, -72.5)))
            slice(6, 73, None)
        """
        edges = grid.edges(2)
        inside = [
            index
            for index in range(grid.shape[2])
            if edges[index] >= self.lower - _TOLERANCE_MM and edges[index + 1] <= self.upper + _TOLERANCE_MM
        ]
        if not inside:
            raise ValueError(f"voxels must be thinner than the {self.part} slab, got {grid.spacing[2]} mm.")
        return slice(inside[0], inside[-1] + 1)

    def box(self, grid: VoxelGrid) -> tuple[slice, slice, slice]:
        """Return the part of a volume on ``grid`` that belongs to the slab."""
        return slice(0, grid.shape[0]), slice(0, grid.shape[1]), self.slices(grid)


# Neighbouring slices look alike, so each part is one block and 5 mm between blocks belong to none. The test
# slab is the middle of the brain: ventricles, deep grey matter, cortex and much white matter.
SLABS = (
    AxialSlab("training", -66.5, 0.5),
    AxialSlab("validation", 34.5, 56.5),
    AxialSlab("test", 5.5, 29.5),
)
