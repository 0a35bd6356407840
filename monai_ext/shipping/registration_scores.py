# SPDX-License-Identifier: Apache-2.0
"""How well a transform brings two scans together."""

from __future__ import annotations

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from monai_ext.data.point_list import PointList
from monai_ext.registration import TransformChain, WorldGrid, resample


class RegistrationScores:
    """Similarity inside the body, distance between known points and overlap of labels, whatever of it is there.

    Args:
        fixed: (C, X, Y, Z) as the network gets it.
        moving: alike, in its own grid.
        body: bool (X, Y, Z), of the fixed scan.
        points: the same places in the fixed and in the moving scan.
        labels: (1, X, Y, Z) of both scans, each in a grid of its own.

    Example:
        >>> scan = MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.eye(4))
        >>> RegistrationScores(scan, scan, torch.ones(4, 4, 4).bool())(TransformChain([]))
        {'ncc': 1.0}
    """

    def __init__(
        self,
        fixed: MetaTensor,
        moving: MetaTensor,
        body: Tensor,
        points: tuple[PointList, PointList] | None = None,
        labels: tuple[MetaTensor, MetaTensor] | None = None,
    ) -> None:
        self.fixed = fixed
        self.moving = moving
        self.body = body
        self.points = points
        self.labels = labels

    def __call__(self, transform: TransformChain) -> dict[str, object]:
        """Return the scores of a transform from fixed to moving RAS mm.

        Returns:
            ``ncc`` (None where one of both scans is constant), ``tre_mm`` with mean, median, 95th percentile and
            maximum, ``dice`` by label and their ``mean``.
        """
        scores: dict[str, object] = {"ncc": self._correlation(transform)}
        if self.points is not None:
            scores["tre_mm"] = _spread(self.errors(transform))
        if self.labels is not None:
            scores["dice"] = self._overlaps(transform)
        return scores

    def errors(self, transform: TransformChain) -> Tensor:
        """Return mm (N,) between where the points of the fixed scan are taken and where they are.

        Raises:
            ValueError: there are no points.
        """
        if self.points is None:
            raise ValueError("there are no points to measure.")
        return (transform(self.points[0].points).cpu() - self.points[1].points).norm(dim=1)

    def _correlation(self, transform: TransformChain) -> float | None:
        outside = float(self.moving.min())
        warped = resample(
            self.moving, WorldGrid.of(self.moving), transform, WorldGrid.of(self.fixed), "linear", outside
        )
        pair = torch.stack([x.as_subclass(Tensor)[:, self.body].double().flatten() for x in (self.fixed, warped)])
        pair = pair - pair.mean(dim=1, keepdim=True)
        lengths = pair.norm(dim=1)
        return round(float(pair[0] @ pair[1] / lengths.prod()), 4) if float(lengths.min()) > 0 else None

    def _overlaps(self, transform: TransformChain) -> dict[str, float]:
        """Return Dice of each label that both scans have."""
        if self.labels is None:
            return {}
        fixed, moving = self.labels
        grids = WorldGrid.of(moving), WorldGrid.of(fixed)
        warped = resample(moving, grids[0], transform, grids[1], "nearest").numpy().ravel()
        truth = fixed.as_subclass(Tensor).numpy().ravel()
        shared = np.intersect1d(np.unique(truth), torch.unique(moving.as_subclass(Tensor)).numpy())
        most = int(max(truth.max(), warped.max())) + 1
        ours, theirs, both = (np.bincount(x, minlength=most) for x in (warped, truth, truth[truth == warped]))
        scores = {str(k): round(float(2 * both[k] / (ours[k] + theirs[k])), 4) for k in shared.tolist() if k > 0}
        return {**scores, "mean": round(float(np.mean(list(scores.values()))), 4)} if scores else {}


def _spread(errors: Tensor) -> dict[str, float]:
    found = {
        "mean": errors.mean(),
        "median": errors.quantile(0.5),
        "p95": errors.quantile(0.95),
        "max": errors.max(),
    }
    return {name: round(float(value), 4) for name, value in found.items()}
