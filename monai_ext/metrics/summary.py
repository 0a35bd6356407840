# SPDX-License-Identifier: Apache-2.0
"""From one row per case and class to what goes into ``summary.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from monai_ext.metrics.bootstrap import summary_statistics
from monai_ext.metrics.segmentation import SCORES

Row = Mapping[str, object]
Statistics = dict[str, dict[str, float | None]]
BOOTSTRAP_LEVEL = 0.95


def summarize_cases(rows: Sequence[Row], samples: int = 1000, seed: int = 0) -> dict[str, object]:
    """Summarise scores over cases: per class, over the per-case means of all classes, and per site.

    Args:
        rows: one per case and class with ``case``, ``site``, ``class``, ``class_name`` and the scores of
            `monai_ext.metrics.segmentation_scores`.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        ``{"cases", "classes": [{"class", "name", "metrics"}], "mean_foreground", "sites"}``, where each metric is
        the dictionary of `monai_ext.metrics.summary_statistics`.

    Example:
        >>> row = dict.fromkeys(SCORES, 0.5)
        >>> summarize_cases([{"case": "a", "site": "", "class": 1, "class_name": "lesion", **row}])["cases"]
        1
    """
    cases = list(dict.fromkeys(str(row["case"]) for row in rows))
    names = {_number(row, "class"): str(row["class_name"]) for row in rows}
    per_class = {index: [row for row in rows if row["class"] == index] for index in sorted(names)}
    means = {case: {} for case in cases}  # type: dict[str, dict[str, float]]
    sites: dict[str, list[str]] = {}
    grouped: dict[str, list[Row]] = {case: [] for case in cases}
    for row in rows:
        grouped[str(row["case"])].append(row)
    for case, own in grouped.items():
        means[case] = {score: float(np.mean([_number(row, score) for row in own])) for score in SCORES}
        if own[0].get("site"):
            sites.setdefault(str(own[0]["site"]), []).append(case)
    return {
        "cases": len(cases),
        "classes": [
            {
                "class": int(index),
                "name": names[index],
                "metrics": {
                    score: summary_statistics([_number(row, score) for row in own], samples, seed, BOOTSTRAP_LEVEL)
                    for score in SCORES
                },
            }
            for index, own in per_class.items()
        ],
        "mean_foreground": {
            score: summary_statistics([means[case][score] for case in cases], samples, seed, BOOTSTRAP_LEVEL)
            for score in SCORES
        },
        "sites": {
            site: {
                "cases": len(own),
                **{score: float(np.mean([means[case][score] for case in own])) for score in SCORES},
            }
            for site, own in sorted(sites.items())
        },
    }


def _number(row: Row, key: str) -> float:
    return float(row[key])  # type: ignore[arg-type]
