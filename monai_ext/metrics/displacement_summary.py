# SPDX-License-Identifier: Apache-2.0
"""From one row per registered pair to what a whole evaluation comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai_ext.metrics.bootstrap import summary_statistics

SCORES = (
    "tre_unaligned_mm", "tre_before_mm", "tre_after_mm", "dice_before", "dice_after", "ncc_before", "ncc_after",
    "folding_percent", "sd_log_j",
)  # fmt: skip
CHANGES = {"tre_mm": "tre_{}_mm", "dice": "dice_{}", "ncc": "ncc_{}"}
Row = Mapping[str, object]


def summarize_displacements(
    rows: Sequence[Row], label_rows: Sequence[Row] = (), samples: int = 1000, seed: int = 0
) -> dict[str, object]:
    """Summarise pairs, each counting once: every score, what registration changed of it, and each label.

    Args:
        rows: one per pair with the columns named in `SCORES`; None is not known, and is left out.
        label_rows: one per pair and label with ``label``, ``dice_before`` and ``dice_after``.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        ``cases``, ``scores``, ``changes`` (after less before, pair by pair) and ``labels``, all with the statistics of
        `monai_ext.metrics.summary_statistics`.

    Example:
        >>> row = {**dict.fromkeys(SCORES), "tre_before_mm": 5.0, "tre_after_mm": 2.0}
        >>> summary = summarize_displacements([row, row])
        >>> summary["scores"]["tre_after_mm"]["mean"], summary["changes"]["tre_mm"]["mean"], summary["labels"]
        (2.0, -3.0, {})
    """
    changes = {
        name: [
            _float(row[column.format("after")]) - _float(row[column.format("before")])
            for row in rows
            if row[column.format("after")] is not None and row[column.format("before")] is not None
        ]
        for name, column in CHANGES.items()
    }
    labels = sorted({_float(row["label"]) for row in label_rows})
    return {
        "cases": len(rows),
        "scores": {name: summary_statistics(_known(rows, name), samples, seed) for name in SCORES},
        "changes": {name: summary_statistics(values, samples, seed) for name, values in changes.items()},
        "labels": {
            f"{label:g}": {
                name: summary_statistics(_known([r for r in label_rows if r["label"] == label], name), samples, seed)
                for name in ("dice_before", "dice_after")
            }
            for label in labels
        },
    }


def _known(rows: Sequence[Row], name: str) -> list[float]:
    return [_float(row[name]) for row in rows if row[name] is not None]


def _float(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
