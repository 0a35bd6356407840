# SPDX-License-Identifier: Apache-2.0
"""From matched places to what has become of each lesion."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from monai_ext.followup.assignment import assign
from monai_ext.followup.lesion_list import LesionList
from monai_ext.followup.tracked_lesion import Place, TrackedLesion
from monai_ext.matching import MatchedPoints


def track_lesions(
    baseline: LesionList,
    matched: MatchedPoints,
    found: LesionList | None = None,
    matched_back: MatchedPoints | None = None,
    max_distance_mm: float = 10.0,
) -> list[TrackedLesion]:
    """Say what has become of each lesion, those of the baseline first, then those that are new.

    Without a list of the follow-up's own lesions a lesion is ``found`` where its match was accepted, else
    ``uncertain``. With one, lesions and list are assigned to each other by the distance between the matched place and
    the listed one:

    - ``matched``: the match was accepted, and a listed lesion lies near enough;
    - ``lost``: the match was accepted, and none does;
    - ``uncertain``: the match was not accepted; what lies near enough is named all the same, after the lesions whose
      match was accepted have chosen. Also a listed lesion that nothing was assigned to and whose place was not
      recognised at baseline, for instance as the baseline does not reach that far;
    - ``new``: a listed lesion that nothing was assigned to, whose place was recognised at baseline.

    Near enough is nearer than ``max_distance_mm``, or than the larger of the two lesions' radii if that is more.

    Args:
        baseline: lesions of the baseline.
        matched: their matches in the follow-up, RAS mm.
        found: the follow-up's own lesions.
        matched_back: their matches in the baseline.
        max_distance_mm: see above.

    Raises:
        ValueError: lists of different lengths, one of ``found`` and ``matched_back`` alone, or a distance below 0.
    """
    if len(baseline) != len(matched) or (found is None) != (matched_back is None):
        raise ValueError("each list of lesions must come with a match for each of them.")
    if max_distance_mm < 0:
        raise ValueError(f"max_distance_mm must not be negative, got {max_distance_mm}.")
    tracked = [_tracked(baseline, matched, index, found is not None) for index in range(len(baseline))]
    if found is None or matched_back is None:
        return tracked
    if len(found) != len(matched_back):
        raise ValueError("each list of lesions must come with a match for each of them.")
    limits = _limits(baseline.diameters, found.diameters, max_distance_mm)
    partners = _partners(matched, found, limits)
    tracked = [
        lesion if partner is None else _with_partner(lesion, found, partner, float(row[partner]))
        for lesion, partner, row in zip(tracked, partners, limits, strict=True)
    ]
    taken = set(partners)
    return tracked + [_new(found, matched_back, index) for index in range(len(found)) if index not in taken]


def _tracked(baseline: LesionList, matched: MatchedPoints, index: int, listed: bool) -> TrackedLesion:
    accepted = bool(matched.accepted[index])
    return TrackedLesion(
        baseline.points.names[index],
        ("lost" if listed else "found") if accepted else "uncertain",
        _place(baseline.points.points[index]),
        _place(matched.points[index]),
        *_scores(matched, index),
        reason=matched.reasons[index],
        baseline_diameter=_known(baseline.diameters[index]),
    )


def _scores(matched: MatchedPoints, index: int) -> tuple[float, float, float, float]:
    """Return score, local and global score, and cycle error."""
    similarities = (matched.score, matched.local_score, matched.global_score)
    score, local, wide = (float(values[index]) for values in similarities)
    return score, local, wide, float(matched.cycle_error[index])


def _limits(baseline: Tensor, found: Tensor, max_distance_mm: float) -> Tensor:
    """Return the largest distance (N, M) of each pair."""
    radii = torch.maximum(baseline.nan_to_num()[:, None], found.nan_to_num()[None]) / 2
    return radii.clamp(min=max_distance_mm)


def _partners(matched: MatchedPoints, found: LesionList, limits: Tensor) -> list[int | None]:
    """Return for each lesion the index in the follow-up's list; accepted matches choose first."""
    partners: list[int | None] = [None] * len(matched)
    for accepted in (True, False):
        free = [index for index in range(len(found)) if index not in partners]
        asking = (matched.accepted == accepted).nonzero()[:, 0].tolist()
        chosen = assign(matched.points[asking], found.points.points[free], limits[asking][:, free])
        for index, choice in zip(asking, chosen, strict=True):
            partners[index] = None if choice is None else free[choice]
    return partners


def _with_partner(lesion: TrackedLesion, found: LesionList, partner: int, limit: float) -> TrackedLesion:
    place = found.points.points[partner]
    return replace(
        lesion,
        status="matched" if lesion.status == "lost" else lesion.status,
        partner=found.points.names[partner],
        partner_place=_place(place),
        distance=float((place - torch.tensor(lesion.followup, dtype=torch.float64)).norm()),
        limit=limit,
        followup_diameter=_known(found.diameters[partner]),
    )


def _new(found: LesionList, matched_back: MatchedPoints, index: int) -> TrackedLesion:
    accepted = bool(matched_back.accepted[index])
    place = _place(found.points.points[index])
    reason = matched_back.reasons[index]
    return TrackedLesion(
        None,
        "new" if accepted else "uncertain",
        _place(matched_back.points[index]),
        place,
        *_scores(matched_back, index),
        reason=reason if accepted else f"its place was not recognised at baseline: {reason}",
        partner=found.points.names[index],
        partner_place=place,
        followup_diameter=_known(found.diameters[index]),
    )


def _place(point: Tensor) -> Place:
    x, y, z = point.tolist()
    return x, y, z


def _known(value: Tensor) -> float | None:
    return None if math.isnan(float(value)) else float(value)
