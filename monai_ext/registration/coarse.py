# SPDX-License-Identifier: Apache-2.0
"""A coarse displacement field by anatomical embeddings, after an affine map."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from monai_ext.cell_grid import CellGrid
from monai_ext.errors import InputError
from monai_ext.matching import PointMatcher, VolumeEmbedding
from monai_ext.registration._agreeing import agreeing
from monai_ext.registration._grid_matches import match_grid
from monai_ext.registration.chain import TransformChain
from monai_ext.registration.displacement import WorldDisplacement
from monai_ext.registration.folding import Folding, measure_folding
from monai_ext.registration.least_squares_field import least_squares_field
from monai_ext.registration.scattered_fields import gaussian_field, interpolated_field
from monai_ext.registration.world_grid import WorldGrid

FIELDS = ("lsq", "nw", "interp")


class CoarseRegistration(NamedTuple):
    """An affine map and a coarse field before it, and what they rest on.

    Attributes:
        transform: maps the fixed volume's RAS mm to the moving one's: the field first, then the affine.
        field: the field alone, on its nodes.
        source: (N, 3) matched places in the fixed volume, RAS mm.
        moved: (N, 3) mm that each match lies away from where the affine takes it, seen in the fixed volume.
        inliers: (N,) which matches the field rests on.
        residuals: (N,) mm between the field and each match.
        asked: how many points of the grid lie inside the body; the others were not matched.
        folding: of the field at the fixed volume's voxels, inside the body.
    """

    transform: TransformChain
    field: WorldDisplacement
    source: Tensor
    moved: Tensor
    inliers: Tensor
    residuals: Tensor
    asked: int
    folding: Folding

    def summary(self) -> dict[str, float]:
        """Return counts, residuals of the inliers in mm before and after, and folding, for a report."""
        before, after = self.moved.norm(dim=1)[self.inliers], self.residuals[self.inliers]
        return {
            "grid_points": self.asked,
            "matches": len(self.source),
            "inliers": int(self.inliers.sum()),
            "residual_before_mean_mm": round(float(before.mean()), 3),
            "residual_mean_mm": round(float(after.mean()), 3),
            "residual_max_mm": round(float(after.max()), 3),
            "folding_percent": round(self.folding.percent, 4),
            "sd_log_j": round(self.folding.sd_log_j, 4),
        }


class SAMCoarse:
    """Find a coarse displacement field by matching a denser grid after an affine map (SAM-coarse).

    Second step of SAME++ (Tian et al. 2023, https://arxiv.org/abs/2311.14986): the moving volume is brought close by
    the affine map, embedded again and matched again. A match that does not move as the ones around it is an outlier.
    The others give a displacement to each node of a coarse grid, linear in between.

    The published code takes 100 steps of Adam to it; the problem is quadratic and is solved here.

    Args:
        stride: voxels of the embedded fixed volume between grid points, a multiple of those a cell.
        threshold: matches of a lower score do not count.
        mutual: whether a match has to lead back to where it came from, to less than a cell.
        spacing: voxels between the nodes of the field.
        field: ``lsq`` (see `least_squares_field`), ``nw`` (Gaussian normalised convolution; no smoothness) or
            ``interp`` (linear between the matches, outliers and all noise included).
        smoothness: of ``lsq``: weight of the differences between neighbouring nodes; the larger, the nearer to the
            affine map. The default is the published weight, 0.04, which stands before means over axes and components.
        max_deviation: a match that deviates from the median of its 12 neighbours by more than so many median
            absolute deviations is an outlier, unless it is less than half a cell.
        min_points: fewer matches, or fewer inliers, are refused.
        refine: place matches between cells; False gives centres of cells, as published.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> shapes = {"local": (8, 8, 16, 16), "global": (8, 4, 2, 2)}
        >>> outputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        >>> outputs = {name: torch.nn.functional.normalize(x, dim=0) for name, x in outputs.items()}
        >>> fixed = VolumeEmbedding(outputs, torch.eye(4))
        >>> moved = torch.eye(4)
        >>> moved[0, 3] = 0.5  # what an affine map did not find
        >>> result = SAMCoarse(refine=False, smoothness=1e-3)(fixed, lambda _: VolumeEmbedding(outputs, moved), moved)
        >>> result.transform(torch.tensor([[8.0, 16.0, 16.0]])).round(decimals=2).tolist()
        [[9.0, 16.0, 16.0]]
    """

    def __init__(
        self,
        stride: int = 4,
        threshold: float = 0.7,
        mutual: bool = True,
        spacing: int = 16,
        field: str = "lsq",
        smoothness: float = 0.0044,
        max_deviation: float = 3.0,
        min_points: int = 12,
        refine: bool = True,
    ) -> None:
        if field not in FIELDS:
            raise ValueError(f"field must be one of {', '.join(FIELDS)}, got {field!r}.")
        for name, value in (("spacing", spacing), ("smoothness", smoothness), ("max_deviation", max_deviation)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        if min_points < 1:
            raise ValueError(f"min_points must be at least 1, got {min_points}.")
        self.stride = stride
        self.matcher = PointMatcher(mode="mutual" if mutual else "nn", refine=refine, min_score=threshold)
        self.spacing = spacing
        self.field = field
        self.smoothness = smoothness
        self.max_deviation = max_deviation
        self.min_points = min_points

    def __call__(
        self,
        fixed: VolumeEmbedding,
        embed: Callable[[Tensor], VolumeEmbedding],
        matrix: Tensor,
        fixed_mask: Tensor | None = None,
    ) -> CoarseRegistration:
        """Register two volumes that an affine map has brought close.

        Args:
            fixed: embeddings of the fixed volume.
            embed: returns the embeddings of the moving volume *warped by the matrix*, in the fixed volume's space.
                To embed it again: resample it through the matrix on the fixed grid and run the network. To do
                without: ``lambda matrix: relocated(moving, matrix)``.
            matrix: (4, 4), from the fixed volume's RAS mm to the moving one's, as `SAMAffine` finds it.
            fixed_mask: bool (*fixed.size), True inside the body; None for all of it.

        Raises:
            InputError: too few matches.
            ValueError: a mask of another shape, or a stride that is no multiple of the voxels a cell.
        """
        found = match_grid(fixed, embed(matrix), fixed_mask, None, self.matcher, self.stride)
        moved = found.target - found.source
        grid = WorldGrid(fixed.size, fixed.affine)
        cell_mm = min(step * cell for step, cell in zip(grid.spacing, fixed.grid.stride, strict=True))
        self._require_enough(len(moved), "matched points")
        inliers = agreeing(found.source, moved, self.max_deviation, cell_mm / 2)
        self._require_enough(int(inliers.sum()), "points that agree with their neighbours")
        field = self._field(grid, found.source[inliers], moved[inliers])
        dense = WorldDisplacement.sampled(field, grid)
        return CoarseRegistration(
            transform=TransformChain([field, matrix]),
            field=field,
            source=found.source,
            moved=moved,
            inliers=inliers,
            residuals=(field.at(found.source) - moved).norm(dim=1),
            asked=found.asked,
            folding=measure_folding(dense, fixed_mask),
        )

    def _field(self, grid: WorldGrid, source: Tensor, moved: Tensor) -> WorldDisplacement:
        """Make a field whose nodes cover the volume's voxels like large voxels of their own."""
        stride = (self.spacing,) * 3
        nodes = CellGrid(tuple(-(-side // self.spacing) for side in grid.shape), stride)
        places = nodes.to_cells(grid.to_voxels(source))
        if self.field == "lsq":
            values = least_squares_field(nodes, places, moved, self.smoothness)
        elif self.field == "nw":
            values = gaussian_field(nodes, places, moved, sigma=0.5)
        else:
            values = interpolated_field(nodes, places, moved)
        affine = grid.affine.clone()
        affine[:3, :3] *= self.spacing
        affine[:3, 3] = grid.to_world(nodes.to_voxels(affine.new_zeros(3)))
        return WorldDisplacement(values, WorldGrid(nodes.shape, affine))

    def _require_enough(self, count: int, what: str) -> None:
        if count < self.min_points:
            raise InputError(
                f"{count} {what} after the affine map, and min_points is {self.min_points}; lower the threshold or "
                "the stride, or stop at the affine map."
            )
