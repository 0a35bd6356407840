# SPDX-License-Identifier: Apache-2.0
"""What the page of linked views shows: pairs of scans, and in each the points with their matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Place = tuple[float, float, float]


@dataclass(frozen=True)
class LinkedPoint:
    """One point in both scans of a pair.

    Args:
        name: as the user calls it.
        status: one word, such as ``found``.
        kind: colour of the status: ``good``, ``open`` or ``bad``.
        fixed: place in the first scan, RAS mm; None where there is none.
        moving: place in the second scan.
        facts: name and value of what else is known, as text.
    """

    name: str
    status: str
    kind: str
    fixed: Place | None
    moving: Place | None
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class LinkedScans:
    """Two scans and the points in both.

    Args:
        titles: what the two scans are called.
        scans: their files.
        points: in the order of the list.
    """

    titles: tuple[str, str]
    scans: tuple[Path, Path]
    points: Sequence[LinkedPoint]
