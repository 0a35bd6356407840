# SPDX-License-Identifier: Apache-2.0
"""What the handlers for matching ask of an evaluator's output: one pair of scans with its points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor

from monai_ext.distributed import rank
from monai_ext.errors import InputError
from monai_ext.handlers._results import CaseResult, absolute, meta_of, results_of
from monai_ext.matching import MatchedPoints
from monai_ext.metrics.landmarks import AXES, hit_in_box, landmark_errors, per_axis

Row = dict[str, Any]
POINT_COLUMNS = (
    "point",
    *(f"{kind}_{axis}_ras_mm" for kind in ("fixed", "true", "found") for axis in "xyz"),
    "error_mm",
    *(f"{axis}_mm" for axis in AXES),
    "score",
    "local_score",
    "global_score",
    "cycle_error_mm",
    "accepted",
    "fallback",
    "anchors",
    "reason",
    "radius_mm",
    "within_radius",
    "in_box",
)


@dataclass(frozen=True)
class LandmarkCase:
    """A pair of scans: ``image`` is the moving one, in which the points were found, ``reference`` the fixed one."""

    name: str
    image: str
    reference: str
    site: str
    subject: str
    rows: list[Row]

    def identity(self, number: int) -> tuple[str, ...]:
        """Return what tells it from others, in the order of listing; ``number`` where it has neither name nor file."""
        known = (self.name, self.image, self.reference)
        return known if any(known) else ("", "", "", f"{rank():06d}", f"{number:06d}")


def landmark_cases(engine: Engine) -> list[LandmarkCase]:
    """Return the cases of the engine's last iteration.

    Raises:
        InputError: a case has no true places, or not as many as were found, or places that are not finite.
    """
    return [_case_of(result) for result in results_of(engine)]


def _case_of(result: CaseResult) -> LandmarkCase:
    name = str(_value(result, "case") or result.name)
    image, reference = (absolute(meta_of(_value(result, key)).get("filename_or_obj")) for key in ("image", "reference"))
    try:
        rows = _rows_of(result)
    except InputError as error:
        raise InputError(f"{name or image or 'a case without a name'}: {error}") from error
    return LandmarkCase(name, image, reference, result.text("site"), result.text("subject"), rows)


def _rows_of(result: CaseResult) -> list[Row]:
    matched = result.output["pred"]
    if not isinstance(matched, MatchedPoints):
        raise ValueError(f"pred must be MatchedPoints, got {type(matched).__name__}.")
    found, count = matched.points.double(), len(matched)
    if _value(result, "truth") is None:
        raise InputError("there is no 'truth' to score by; list a file of points that has the places in both scans.")
    fixed, true = (_places(result, key, found) for key in ("points", "truth"))
    errors = landmark_errors(found, true)
    columns: dict[str, Sequence[object]] = {
        "point": _names(result, count),
        **_coordinates("fixed", fixed),
        **_coordinates("true", true),
        **_coordinates("found", found),
        "error_mm": errors.tolist(),
        **{f"{axis}_mm": column for axis, column in zip(AXES, per_axis(found, true).T.tolist(), strict=False)},
        "score": _finite(matched.score),
        "local_score": _finite(matched.local_score),
        "global_score": _finite(matched.global_score),
        "cycle_error_mm": _finite(matched.cycle_error),
        "accepted": matched.accepted.int().tolist(),
        "fallback": matched.fallback.int().tolist(),
        "anchors": matched.anchors.tolist(),
        "reason": matched.reasons,
        **_target_columns(result, found, errors),
    }
    columns |= {name: [None] * count for name in POINT_COLUMNS if name not in columns}  # z of a picture
    return [{name: column[index] for name, column in columns.items()} for index in range(count)]


def _value(result: CaseResult, key: str) -> Any:
    """Return an entry of the output, or else of what the data set gave."""
    value = result.output.get(key)
    return result.batch.get(key) if value is None else value


def _places(result: CaseResult, key: str, found: Tensor) -> Tensor:
    places = torch.as_tensor(_value(result, key)).detach().to("cpu", torch.float64).as_subclass(Tensor)
    if places.shape != found.shape:
        raise InputError(f"{key!r} must be {tuple(found.shape)} as the found places are, got {tuple(places.shape)}.")
    return places


def _names(result: CaseResult, count: int) -> list[str]:
    names = _value(result, "point_names")
    names = [str(name) for name in names] if names is not None else [str(number) for number in range(1, count + 1)]
    if len(names) != count:
        raise InputError(f"'point_names' must name {count} points, got {len(names)}.")
    return names


def _coordinates(kind: str, places: Tensor) -> dict[str, list[float]]:
    return {f"{kind}_{axis}_ras_mm": column for axis, column in zip("xyz", places.T.tolist(), strict=False)}


def _finite(values: Tensor) -> list[float | None]:
    """Return numbers, None for what is none: it is not known, and no mean counts it."""
    return [value if math.isfinite(value) else None for value in values.double().tolist()]


def _target_columns(result: CaseResult, found: Tensor, errors: Tensor) -> dict[str, list[object]]:
    """Return radius and hits of the lesions whose size is known."""
    columns: dict[str, list[object]] = {name: [None] * len(found) for name in ("radius_mm", "within_radius", "in_box")}
    radius, boxes = _value(result, "radius"), _value(result, "boxes")
    if radius is not None:
        sizes = torch.as_tensor(radius).detach().to("cpu", torch.float64).reshape(-1)
        if len(sizes) != len(found):
            raise InputError(f"'radius' must have {len(found)} entries, got {len(sizes)}.")
        columns["radius_mm"] = list(_finite(sizes))
        hits = (errors <= sizes).int().tolist()
        columns["within_radius"] = [
            None if size is None else hit for size, hit in zip(columns["radius_mm"], hits, strict=True)
        ]
    if boxes is not None:
        corners = torch.as_tensor(boxes).detach().to("cpu", torch.float64).as_subclass(Tensor)
        hits, known = hit_in_box(found, corners).int().tolist(), corners.isfinite().flatten(1).all(dim=1).tolist()
        columns["in_box"] = [hit if is_known else None for hit, is_known in zip(hits, known, strict=True)]
    return columns
