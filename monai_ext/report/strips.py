# SPDX-License-Identifier: Apache-2.0
"""Every case as a dot, the mean and its interval above them: what a table of means hides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from monai_ext.report.charts import nice_step
from monai_ext.report.markup import Markup, tag
from monai_ext.report.palette import css_colour
from monai_ext.report.reading import number_of

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 860, 46, 190, 24, 8
_MOST_DOTS = 400


@dataclass(frozen=True)
class StripRow:
    """One class, or one of what is compared: its name, colour, the metric's record, each case's value and name."""

    name: str
    colour: tuple[int, int, int]
    metric: dict[str, object]
    values: Sequence[tuple[float, str]]


def strip_chart(rows: list[StripRow], metric: str, by: str = "class") -> Markup:
    """Return an SVG with one line per class (or what ``by`` says): cases as dots, mean as a bar, interval as a band."""
    start = axis_start([value for row in rows for value, _ in row.values])
    span = _WIDTH - _LEFT - _RIGHT
    height = _TOP + _ROW * len(rows) + 26

    def across(value: float) -> float:
        return round(_LEFT + span * (min(max(value, start), 1) - start) / (1 - start), 1)

    step = nice_step((1 - start) / 6)
    ticks = [start + step * number for number in range(int((1 - start) / step + 1e-9) + 1)]
    grid = [tag("line", x1=across(t), x2=across(t), y1=_TOP, y2=height - 26, class_="grid") for t in ticks]
    numbers = [tag("text", f"{t:.2g}", x=across(t), y=height - 8, text_anchor="middle") for t in ticks]
    body = [_row(row, _TOP + _ROW * number + _ROW / 2, across) for number, row in enumerate(rows)]
    label = f"{metric} of every case, by {by}, with the mean and its 95 % interval; the table below has the numbers"
    return tag(
        "svg", grid, numbers, body, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=label, class_="strips"
    )


def axis_start(values: Sequence[float]) -> float:
    """Return where an axis up to 1 begins: scores are often high, and half an empty axis hides what differs.

    Example:
        >>> axis_start([0.9, 0.7]), axis_start([0.1])
        (0.6, 0.0)
    """
    low = min(values, default=0.0)
    return next((start for start, limit in ((0.75, 0.8), (0.6, 0.65), (0.4, 0.45)) if low >= limit), 0.0)


def _row(row: StripRow, middle: float, across: Callable[[float], float]) -> list[Markup]:
    colour = css_colour(row.colour)
    parts = [
        tag(
            "text",
            _short(row.name),
            tag("title", row.name),
            x=_LEFT - 12,
            y=middle + 4,
            text_anchor="end",
            class_="name",
        )
    ]
    low, high, mean = (number_of(row.metric.get(key)) for key in ("low", "high", "mean"))
    if low is not None and high is not None:
        width = max(1.5, across(high) - across(low))
        parts.append(tag("rect", x=across(low), y=middle - 14, width=width, height=28, rx=2, class_="interval"))
    for number, (value, case) in enumerate(row.values[:_MOST_DOTS]):
        offset = (number * 7 % 5 - 2) * 3.2  # spread by rank, not by chance: the same run gives the same page
        dot = tag(
            "circle", tag("title", f"{case}: {value:.3f}"), cx=across(value), cy=middle + offset, r=4, fill=colour
        )
        parts.append(dot)
    if mean is not None:
        parts.append(tag("line", x1=across(mean), x2=across(mean), y1=middle - 16, y2=middle + 16, class_="mean"))
    return parts


def _short(name: str) -> str:
    return name if len(name) <= 15 else name[:14] + "…"
