# SPDX-License-Identifier: Apache-2.0
"""From one row per point to what a case and a whole evaluation of matching come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from monai_ext.metrics.bootstrap import bootstrap_interval
from monai_ext.metrics.clustered_bootstrap import clustered_interval
from monai_ext.metrics.landmarks import AXES

Row = Mapping[str, object]
Statistics = dict[str, float | int | str | None]
DISTANCES = ("error_mm", *(f"{axis}_mm" for axis in AXES), "cycle_error_mm", "score")
SHARES = {"cpm_radius": "within_radius", "hit_in_box": "in_box"}  # name -> column of a point


def summarize_landmarks(
    rows: Sequence[Row], hit_mm: float = 10.0, samples: int = 1000, seed: int = 0
) -> dict[str, object]:
    """Summarise points over all cases: all of them, and apart those that were accepted, with their share.

    A point that was not accepted counts among ``all`` by its best guess, and not among ``accepted``.

    Args:
        rows: one per point with ``case``, ``accepted`` and ``fallback`` (truth values), the columns named in
            `DISTANCES`, and ``within_radius`` and ``in_box``. None is not known, and is left out of that mean.
        hit_mm: limit of the CPM in mm.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        ``{"cases", "points", "fallbacks", "coverage", "all", "accepted"}``; the last two have ``points``, the
        statistics of each of `DISTANCES` (``error_mm`` is the MED) and the shares ``cpm_<hit_mm>mm``,
        ``cpm_radius`` and ``hit_in_box``. Statistics and shares have ``mean``, ``low``, ``high``, ``n``, ``cases`` and
        ``interval_over``: "cases" when cases were drawn with all their points; "points" when there is one case,
        whose points had to be drawn instead, so that the interval says nothing about other cases; None without an
        interval. Statistics also have ``std``, ``median``, ``p95`` and ``max``. Of no value all is None.

    Example:
        >>> row = {**dict.fromkeys(DISTANCES, 2.0), "within_radius": None, "in_box": True, "fallback": False}
        >>> summary = summarize_landmarks([{"case": "a", "accepted": True, **row}])
        >>> summary["all"]["error_mm"]["mean"], summary["all"]["cpm_10mm"]["mean"], summary["all"]["cpm_radius"]["n"]
        (2.0, 1.0, 0)
    """
    accepted = [row for row in rows if row["accepted"]]
    return {
        "cases": len({row["case"] for row in rows}),
        "points": len(rows),
        "fallbacks": sum(bool(row["fallback"]) for row in rows),
        "coverage": _share(rows, [bool(row["accepted"]) for row in rows], samples, seed),
        "all": _group(rows, hit_mm, samples, seed),
        "accepted": _group(accepted, hit_mm, samples, seed),
    }


def case_landmarks(rows: Sequence[Row], hit_mm: float = 10.0) -> dict[str, float | int | None]:
    """Return the means of one case: over all its points, and with the prefix ``accepted_`` over the accepted ones.

    Example:
        >>> row = {**dict.fromkeys(DISTANCES, 2.0), "within_radius": None, "in_box": None, "fallback": False}
        >>> case = case_landmarks([{"accepted": False, **row}])
        >>> case["points"], case["error_mm"], case["coverage"], case["accepted_error_mm"]
        (1, 2.0, 0.0, None)
    """
    errors = _values(rows, "error_mm")
    accepted = [row for row in rows if row["accepted"]]
    return {
        "points": len(rows),
        "accepted": len(accepted),
        "fallbacks": sum(bool(row["fallback"]) for row in rows),
        "coverage": len(accepted) / len(rows) if rows else None,
        **_means(rows, hit_mm, ""),
        "error_std_mm": float(np.std(errors, ddof=1)) if len(errors) > 1 else None,
        "error_median_mm": float(np.median(errors)) if errors else None,
        "error_max_mm": max(errors, default=None),
        **_means(accepted, hit_mm, "accepted_"),
    }


def cpm_name(hit_mm: float) -> str:
    """Return what the share of points within a limit is called: ``cpm_10mm``."""
    return f"cpm_{hit_mm:g}mm"


def _means(rows: Sequence[Row], hit_mm: float, prefix: str) -> dict[str, float | None]:
    columns = {name: _values(rows, name) for name in DISTANCES}
    shares = {cpm_name(hit_mm): [float(error <= hit_mm) for error in columns["error_mm"]]}
    shares |= {name: _values(rows, column) for name, column in SHARES.items()}
    return {
        f"{prefix}{name}": float(np.mean(values)) if values else None for name, values in (columns | shares).items()
    }


def _group(rows: Sequence[Row], hit_mm: float, samples: int, seed: int) -> dict[str, object]:
    within = [_float(row["error_mm"]) <= hit_mm for row in rows]
    return {
        "points": len(rows),
        **{name: _statistics(rows, name, samples, seed) for name in DISTANCES},
        cpm_name(hit_mm): _share(rows, within, samples, seed),
        **{name: _share(rows, [row[column] for row in rows], samples, seed) for name, column in SHARES.items()},
    }


def _statistics(rows: Sequence[Row], name: str, samples: int, seed: int) -> Statistics:
    values = np.array(_values(rows, name))
    known = values.size > 0
    return {
        **_mean(rows, [row[name] for row in rows], samples, seed),
        "std": float(values.std(ddof=1)) if values.size > 1 else None,
        "median": float(np.median(values)) if known else None,
        "p95": float(np.quantile(values, 0.95)) if known else None,
        "max": float(values.max()) if known else None,
    }


def _share(rows: Sequence[Row], hits: Sequence[object], samples: int, seed: int) -> Statistics:
    return {**_mean(rows, hits, samples, seed), "hits": sum(bool(hit) for hit in hits if hit is not None)}


def _mean(rows: Sequence[Row], values: Sequence[object], samples: int, seed: int) -> Statistics:
    """Return the mean of what is known, with an interval from cases, or from points where there is one case."""
    groups: dict[object, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        if value is not None:
            groups.setdefault(row["case"], []).append(_float(value))
    known = [value for group in groups.values() for value in group]
    if len(groups) == 1:
        low, high = bootstrap_interval(known, samples, seed)
    else:
        low, high = clustered_interval(list(groups.values()), samples, seed)
    return {
        "mean": float(np.mean(known)) if known else None,
        "low": low,
        "high": high,
        "n": len(known),
        "cases": len(groups),
        "interval_over": None if low is None else "cases" if len(groups) > 1 else "points",
    }


def _values(rows: Iterable[Row], name: str) -> list[float]:
    return [_float(row[name]) for row in rows if row[name] is not None]


def _float(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
