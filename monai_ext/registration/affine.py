# SPDX-License-Identifier: Apache-2.0
"""Affine registration by anatomical embeddings."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from monai_ext.matching import PointMatcher, VolumeEmbedding
from monai_ext.registration._grid_matches import match_grid
from monai_ext.registration._weighted_fits import check_names
from monai_ext.registration.fit_affine import fit_affine


class AffineRegistration(NamedTuple):
    """An affine map, and what it rests on.

    Attributes:
        matrix: (4, 4), from the fixed volume's RAS mm to the moving one's.
        source: (N, 3) matched places in the fixed volume, RAS mm.
        target: (N, 3) where they are in the moving volume, RAS mm.
        score: (N,) similarity of each match, -1 to 1.
        inliers: (N,) which of them the map rests on.
        residuals: (N,) mm between each mapped source and its target.
        asked: how many points of the grid lie inside the body; the others were not matched.
    """

    matrix: Tensor
    source: Tensor
    target: Tensor
    score: Tensor
    inliers: Tensor
    residuals: Tensor
    asked: int

    def summary(self) -> dict[str, float]:
        """Return the counts, and the residuals of the inliers in mm, for a report."""
        kept = self.residuals[self.inliers]
        return {
            "grid_points": self.asked,
            "matches": len(self.source),
            "inliers": int(self.inliers.sum()),
            "residual_mean_mm": round(float(kept.mean()), 3),
            "residual_median_mm": round(float(kept.median()), 3),
            "residual_max_mm": round(float(kept.max()), 3),
        }


class SAMAffine:
    """Find the affine map between two volumes by matching a grid of points (SAM-affine).

    First step of SAME++ (Tian et al. 2023, https://arxiv.org/abs/2311.14986): a grid on the fixed volume inside the
    body, matched by embeddings; matches of a high score that are mutual; a robust fit in mm.

    Args:
        stride: voxels of the embedded fixed volume between grid points, a multiple of those a cell.
        threshold: matches of a lower score do not count.
        mutual: whether a match has to lead back to where it came from, to less than a cell.
        estimator: ``huber``, ``ransac`` or ``lstsq``; see `fit_affine`.
        model: ``affine``, ``similarity`` or ``rigid``.
        min_points: fewer matches, or fewer that agree, are refused.
        refine: place matches between cells; False gives centres of cells, as published.
        tolerance_mm: of ``ransac``.
        seed: of ``ransac``.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> shapes = {"local": (8, 8, 16, 16), "global": (8, 4, 2, 2)}
        >>> outputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        >>> outputs = {name: torch.nn.functional.normalize(x, dim=0) for name, x in outputs.items()}
        >>> moved = torch.eye(4)
        >>> moved[0, 3] = 5  # the same volume, 5 mm further to the right
        >>> result = SAMAffine(refine=False)(VolumeEmbedding(outputs, torch.eye(4)), VolumeEmbedding(outputs, moved))
        >>> result.matrix.round(decimals=6)[0].abs().tolist(), result.summary()["inliers"]
        ([1.0, 0.0, 0.0, 5.0], 32)
    """

    def __init__(
        self,
        stride: int = 8,
        threshold: float = 0.7,
        mutual: bool = True,
        estimator: str = "huber",
        model: str = "affine",
        min_points: int = 12,
        refine: bool = True,
        tolerance_mm: float = 8.0,
        seed: int = 0,
    ) -> None:
        check_names(estimator, model, min_points)
        self.stride = stride
        self.matcher = PointMatcher(mode="mutual" if mutual else "nn", refine=refine, min_score=threshold)
        self.estimator = estimator
        self.model = model
        self.min_points = min_points
        self.tolerance_mm = tolerance_mm
        self.seed = seed

    def __call__(
        self,
        fixed: VolumeEmbedding,
        moving: VolumeEmbedding,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
    ) -> AffineRegistration:
        """Register two embedded volumes.

        Args:
            fixed: embeddings of the fixed volume.
            moving: embeddings of the moving volume.
            fixed_mask: bool (*fixed.size), True inside the body; None for all of it.
            moving_mask: bool (*moving.size), the same.

        Raises:
            InputError: too few matches, or none that determine a map; says what to change.
            ValueError: a mask of another shape, or a stride that is no multiple of the voxels a cell.
        """
        found = match_grid(fixed, moving, fixed_mask, moving_mask, self.matcher, self.stride)
        fit = fit_affine(
            found.source, found.target, self.estimator, self.model, self.min_points, self.tolerance_mm, self.seed
        )
        return AffineRegistration(
            fit.matrix, found.source, found.target, found.score, fit.inliers, fit.residuals, found.asked
        )
