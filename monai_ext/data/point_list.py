# SPDX-License-Identifier: Apache-2.0
"""Named points in the world, with what else a table says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from monai_ext.errors import InputError


@dataclass(frozen=True, eq=False)
class PointList:
    """N points in RAS mm, in the order of their file.

    Attributes:
        names: one per point, each once.
        points: (N, 3) in RAS mm, or (N, 2) in a picture's world; double precision, on the CPU.
        extra: further columns by name, one text per point, empty where the file has nothing.
        path: where they were read from, for messages.

    Raises:
        ValueError: lengths that differ, names that repeat, or points that are not finite.

    Example:
        >>> lesions = PointList(("a", "b"), torch.zeros(2, 3), extra={"diameter_mm": ("12.5", "")})
        >>> lesions.numbers("diameter_mm").tolist()
        [12.5, nan]
    """

    names: tuple[str, ...]
    points: Tensor
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    path: Path | None = None

    def __post_init__(self) -> None:
        points = torch.as_tensor(self.points).detach().to("cpu", torch.float64)
        object.__setattr__(self, "points", points)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise ValueError(f"points must be (N, 2) or (N, 3), got {tuple(points.shape)}.")
        lengths = {"names": len(self.names), **{name: len(column) for name, column in self.extra.items()}}
        wrong = {name: length for name, length in lengths.items() if length != len(points)}
        if wrong:
            raise ValueError(f"all columns must have {len(points)} entries, one per point, got {wrong}.")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"each name must be there once, got {self.names}.")
        if not points.isfinite().all():
            raise ValueError("points must be finite.")

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, name: str) -> Tensor:
        """Return a further column as numbers (N,), NaN where it is empty.

        Raises:
            InputError: there is no such column, or it holds something else.
        """
        origin = self.path or "points"
        if name not in self.extra:
            found = ", ".join(self.extra) or "none beside the points"
            raise InputError(f"{origin}: no column {name!r} (found: {found}); add it, or rename the one that is meant.")
        values = [
            _number(text, f"{origin}: point {number} ({point!r}): {name}")
            for number, (point, text) in enumerate(zip(self.names, self.extra[name], strict=True), start=1)
        ]
        return torch.tensor(values, dtype=torch.float64)


def _number(text: str, what: str) -> float:
    if not text.strip():
        return math.nan
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} must be a finite number or empty, got {text!r}; mend it.")
    return number
