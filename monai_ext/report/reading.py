# SPDX-License-Identifier: Apache-2.0
"""Typed, forgiving access to values from JSON and CSV: a report of a half-written run must still come out."""

from __future__ import annotations

import math


def mapping_of(value: object) -> dict[str, object]:
    """Return ``value`` if it is a dictionary, else an empty one."""
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def list_of(value: object) -> list[object]:
    """Return ``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def number_of(value: object) -> float | None:
    """Return a finite number, also from its text; None for anything else.

    Example:
        >>> number_of("0.5"), number_of(""), number_of(float("nan")), number_of(True)
        (0.5, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # JSON may hold whole numbers of any length
        return None
    return number if math.isfinite(number) else None


def text_of(value: object) -> str:
    """Return the value as a reader wants to see it: text unchanged, None empty, whole numbers without a point."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text_of(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(item) for item in value)
    return str(value)


def score_text(value: object, digits: int = 3) -> str:
    """Return a number with a fixed number of digits, or a dash when it is undefined."""
    number = number_of(value)
    return "–" if number is None else f"{number:.{digits}f}"


def interval_text(metric: dict[str, object], digits: int = 3) -> str:
    """Return ``[low, high]`` of a metric's record, or nothing when it has no interval.

    Example:
        >>> interval_text({"mean": 0.9, "low": 0.85, "high": 0.94})
        '[0.850, 0.940]'
    """
    low, high = number_of(metric.get("low")), number_of(metric.get("high"))
    return "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"


def duration_text(seconds: object) -> str:
    """Return a duration in the two largest units that matter.

    Example:
        >>> duration_text(4.2), duration_text(125), duration_text(7260), duration_text(None)
        ('4.2 s', '2 min 5 s', '2 h 1 min', '')
    """
    number = number_of(seconds)
    if number is None:
        return ""
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def count_text(value: object) -> str:
    """Return a whole number with thin spaces between thousands."""
    number = number_of(value)
    return "" if number is None else f"{number:,.0f}".replace(",", "\u202f")


def file_name(path: object) -> str:
    """Return the last part of a path, whichever system wrote it: reports are shared, folders are private."""
    return text_of(path).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
