# SPDX-License-Identifier: Apache-2.0
"""Matches points between two volumes by their embeddings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.matching._fixed_points import MIN_ANCHORS, FixedPointRule, fixed_points
from monai_ext.matching._refine import refine
from monai_ext.matching._search import best_cells, describe, scores_at
from monai_ext.matching.matched_points import MatchedPoints
from monai_ext.matching.volume_embedding import VolumeEmbedding
from monai_ext.spaces import to_space

MODES = ("nn", "mutual", "fixed_point")
QUERIES = ("interp", "cell")


class _Match(NamedTuple):
    """Places (N, axes) in RAS mm with their similarities (N,)."""

    world: Tensor
    score: Tensor
    local_score: Tensor
    global_score: Tensor


class PointMatcher:
    """Find the places of a moving volume that show what points of a fixed volume show.

    Matching by anatomical embeddings (Yan et al. 2022, https://arxiv.org/abs/2012.02383): the similarity of two places
    is the mean of their local and global inner products, and the most similar cell is the match. Every match is led
    back, and the distance to where it started tells how far to trust it.

    - ``nn``: the most similar place.
    - ``mutual``: the same, but not accepted if the way back ends a cell or more away.
    - ``fixed_point``: the cells around a point are matched there and back until they rest; a robust affine fit to
      these anchors says where the point goes. Too few anchors, or anchors in a plane, fall back to ``nn``, and the
      result says so.

    Args:
        mode: see above.
        query: ``interp`` asks for the vectors at the point itself, ``cell`` for those of its cell, as published.
        refine: move matches to the top of the similarity between cells; False gives centres of cells, as published.
        min_score: matches of a lower score are not accepted.
        max_cycle_mm: matches that lead back further away are not accepted; None accepts any.
        n_iter: of ``fixed_point``: searches there and back, an even number.
        radius: of ``fixed_point``: cells on each side of a point; 2 searches 125 cells a point.
        anchor_score: of ``fixed_point``: anchors must score more.
        max_shift_mm: of ``fixed_point``: anchors must lie nearer to the point.
        budget_mb: of memory that a search may take at once beyond the embeddings, roughly.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> shapes = {"local": (8, 4, 16, 16), "global": (8, 2, 2, 2)}
        >>> outputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        >>> outputs = {name: torch.nn.functional.normalize(x, dim=0) for name, x in outputs.items()}
        >>> volume = VolumeEmbedding(outputs, affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
        >>> matched = PointMatcher(refine=False)(volume, volume, torch.tensor([[5.0, 21.0, 33.0]]))
        >>> matched.points.tolist(), matched.accepted.tolist()
        ([[5.0, 21.0, 33.0]], [True])
    """

    def __init__(
        self,
        mode: str = "nn",
        query: str = "interp",
        refine: bool = True,
        min_score: float = 0.7,
        max_cycle_mm: float | None = None,
        n_iter: int = 4,
        radius: int = 2,
        anchor_score: float = 0.8,
        max_shift_mm: float = 200.0,
        budget_mb: float = 64.0,
    ) -> None:
        _require("mode", mode, MODES)
        _require("query", query, QUERIES)
        if n_iter < 2 or n_iter % 2:
            raise ValueError(f"n_iter must be an even number from 2 on, got {n_iter}.")
        if radius < 1:
            raise ValueError(f"radius must be at least 1, got {radius}.")
        for name, value in (("max_cycle_mm", max_cycle_mm), ("max_shift_mm", max_shift_mm), ("budget_mb", budget_mb)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        self.mode = mode
        self.query = query
        self.refine = refine
        self.min_score = min_score
        self.max_cycle_mm = max_cycle_mm
        self.rule = FixedPointRule(n_iter, radius, anchor_score, max_shift_mm, refine)
        self.budget_mb = budget_mb

    @torch.no_grad()
    def __call__(
        self, fixed: VolumeEmbedding, moving: VolumeEmbedding, points: Tensor, space: str = "RAS"
    ) -> MatchedPoints:
        """Match points (N, axes) in mm of a space, ``RAS`` (NIfTI) or ``LPS`` (DICOM, ITK), both in and out.

        Raises:
            InputError: points of another form, not finite, or in an unknown space.
            ValueError: the embeddings are of different networks.
        """
        world = to_space(_checked(points, len(fixed.size)), space).to(fixed.device)
        _check_pair(fixed, moving)
        match = self._match(fixed, moving, world)
        anchors = torch.zeros(len(world), dtype=torch.long, device=fixed.device)
        fallback = torch.zeros_like(anchors, dtype=torch.bool)
        if self.mode == "fixed_point" and len(world):
            found = fixed_points(fixed, moving, world, self.rule, self.budget_mb)
            match = self._prefer(found.world, found.usable, fixed, moving, world, match)
            anchors, fallback = found.anchors, ~found.usable
        back = self._match(moving, fixed, match.world).world
        cycle = (back - world).norm(dim=1)
        reasons = self._reasons(fixed, world, back, match, cycle)
        accepted = [not reason for reason in reasons]
        for index in fallback.nonzero()[:, 0].tolist():
            text = f"{int(anchors[index])} anchors, not {MIN_ANCHORS} in all directions: nearest match instead"
            reasons[index] = f"{reasons[index]}; {text}" if reasons[index] else text
        return MatchedPoints(
            points=to_space(match.world.cpu(), space),
            score=match.score.cpu(),
            local_score=match.local_score.cpu(),
            global_score=match.global_score.cpu(),
            cycle_error=cycle.cpu(),
            accepted=torch.tensor(accepted, dtype=torch.bool),
            fallback=fallback.cpu(),
            anchors=torch.where(fallback, 0, anchors).cpu(),
            reasons=tuple(reasons),
        )

    def _match(self, fixed: VolumeEmbedding, moving: VolumeEmbedding, world: Tensor) -> _Match:
        """Find the most similar place of each point."""
        if not len(world):
            nothing = world.new_zeros(0, dtype=torch.float32)
            return _Match(world, nothing, nothing, nothing)
        queries = describe(fixed, fixed.to_voxels(world), self.query)
        found = best_cells(moving, queries, self.budget_mb)
        cells = refine(moving, queries, found.cells) if self.refine else found.cells.double()
        scores = scores_at(moving, queries, found.cells[:, None])
        voxels = moving.grid.to_voxels(cells)  # the last cell may reach beyond the volume's own voxels
        voxels = voxels.clamp(min=-0.5).minimum(voxels.new_tensor(moving.size) - 0.5)
        return _Match(moving.to_world(voxels), *(score[:, 0] for score in scores))

    def _prefer(
        self,
        mapped: Tensor,
        usable: Tensor,
        fixed: VolumeEmbedding,
        moving: VolumeEmbedding,
        world: Tensor,
        match: _Match,
    ) -> _Match:
        """Take the mapped places (N, axes), kept inside the volume, where they are usable."""
        voxels = moving.to_voxels(torch.where(usable[:, None], mapped, match.world))
        voxels = voxels.clamp(min=0).minimum(voxels.new_tensor(moving.size) - 1)
        queries = describe(fixed, fixed.to_voxels(world), self.query)
        scores = scores_at(moving, queries, moving.grid.holding(voxels)[:, None])
        other = _Match(moving.to_world(voxels), *(score[:, 0] for score in scores))
        return _Match(*(
            torch.where(usable[:, None] if new.ndim == 2 else usable, new, old)
            for new, old in zip(other, match, strict=True)
        ))  # fmt: skip

    def _reasons(self, fixed: VolumeEmbedding, world: Tensor, back: Tensor, match: _Match, cycle: Tensor) -> list[str]:
        """Say of each point what speaks against its match; an empty text is nothing."""
        voxels = fixed.to_voxels(world)
        inside = fixed.contains(voxels).tolist()
        moved = (fixed.grid.to_cells(voxels) - fixed.grid.to_cells(fixed.to_voxels(back))).abs()
        apart = moved.amax(dim=1).tolist()
        reasons = []
        for index, (score, error) in enumerate(zip(match.score.tolist(), cycle.tolist(), strict=True)):
            against = []
            if not inside[index]:
                against.append("outside of the fixed volume")
            if score < self.min_score:
                against.append(f"score {score:.2f} below {self.min_score:g}")
            if self.max_cycle_mm is not None and error > self.max_cycle_mm:
                against.append(f"leads back {error:.1f} mm away, more than {self.max_cycle_mm:g}")
            if self.mode == "mutual" and apart[index] >= 1:
                against.append(f"not mutual: leads back {apart[index]:.1f} cells away")
            reasons.append("; ".join(against))
        return reasons


def _checked(points: Tensor, axes: int) -> Tensor:
    points = torch.as_tensor(points, dtype=torch.float64)
    if points.ndim != 2 or points.shape[1] != axes:
        raise InputError(f"points must be rows of {axes} numbers (mm), got {tuple(points.shape)}.")
    if not points.isfinite().all():
        row = int((~points.isfinite().all(dim=1)).nonzero()[0, 0])
        raise InputError(f"points must be finite, got {points[row].tolist()} in row {row}.")
    return points


def _check_pair(fixed: VolumeEmbedding, moving: VolumeEmbedding) -> None:
    if fixed.device != moving.device:
        raise ValueError(f"both embeddings must be on one device, got {fixed.device} and {moving.device}.")
    kinds = [
        (volume.grid.stride, volume.coarse_grid.stride, len(volume.coarse), [len(maps) for maps in volume.fine])
        for volume in (fixed, moving)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(f"both embeddings must be of one network, got strides and channels {kinds[0]} and {kinds[1]}.")


def _require(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
