# SPDX-License-Identifier: Apache-2.0
"""Matches and lists of lesions as tests want them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.data.point_list import PointList
from monai_ext.followup.lesion_list import LesionList
from monai_ext.matching import MatchedPoints

Places = Sequence[Sequence[float]]


def matched(
    places: Places, accepted: Sequence[bool] | None = None, reason: str = "score 0.30 below 0.7"
) -> MatchedPoints:
    """Matches at these places; those that are not accepted have a reason."""
    flags = [True] * len(places) if accepted is None else list(accepted)
    scores = torch.tensor([0.9 if flag else 0.3 for flag in flags])
    return MatchedPoints(
        points=torch.tensor(places, dtype=torch.float64).reshape(-1, 3),
        score=scores,
        local_score=scores - 0.05,
        global_score=scores + 0.05,
        cycle_error=torch.arange(len(places), dtype=torch.float64) + 0.5,
        accepted=torch.tensor(flags, dtype=torch.bool),
        fallback=torch.zeros(len(places), dtype=torch.bool),
        anchors=torch.zeros(len(places), dtype=torch.long),
        reasons=tuple("" if flag else reason for flag in flags),
    )


def lesions(places: Places, names: str = "abcdefgh", diameters: Sequence[float] | None = None) -> LesionList:
    """Lesions named by letters."""
    points = torch.tensor(places, dtype=torch.float64).reshape(-1, 3)
    known = [torch.nan] * len(points) if diameters is None else list(diameters)
    return LesionList(PointList(tuple(names[: len(points)]), points), torch.tensor(known, dtype=torch.float64))
