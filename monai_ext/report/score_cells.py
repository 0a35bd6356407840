# SPDX-License-Identifier: Apache-2.0
"""Cells that the tables of scores share: the metrics, a value with its interval, a class with its colour."""

from __future__ import annotations

from monai_ext.report.markup import Markup, tag
from monai_ext.report.palette import class_colour, css_colour
from monai_ext.report.reading import interval_text, mapping_of, number_of, score_text, text_of

# column of cases.csv: title, unit, digits, whether more is better
METRICS = {
    "dice": ("Dice", "", 3, True),
    "iou": ("IoU", "", 3, True),
    "nsd": ("NSD", "", 3, True),
    "hd95_mm": ("HD95", "mm", 2, False),
    "asd_mm": ("ASD", "mm", 2, False),
}


def interval_cell(metrics: dict[str, object], key: str) -> Markup:
    """Return the mean of a metric with its interval below."""
    metric, digits = mapping_of(metrics.get(key)), METRICS[key][2]
    return tag(
        "td",
        score_text(metric.get("mean"), digits),
        tag("small", interval_text(metric, digits), class_="interval-text"),
        class_="number",
    )


def class_title(record: dict[str, object]) -> str:
    """Return the name of a class of summary.json, or its number."""
    return text_of(record.get("name")) or f"class {text_of(record.get('class'))}"


def swatch(record: dict[str, object]) -> Markup:
    """Return the class's colour as a small square."""
    index = int(number_of(record.get("class")) or 1)
    return tag("span", class_="swatch", style=f"background:{css_colour(class_colour(max(index, 1)))}")
