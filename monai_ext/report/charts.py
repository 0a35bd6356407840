# SPDX-License-Identifier: Apache-2.0
"""Curves over epochs as inline SVG: drawn here, so that they print and need no script; hovering is added by one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

from monai_ext.report.markup import Markup, tag

Point = tuple[float, float]
_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 14, 40


def line_chart(
    title: str, series: dict[str, list[Point]], log: bool = False, mark: Point | None = None, from_zero: bool = False
) -> Markup:
    """Return a figure with one line per series of (epoch, value).

    Args:
        title: heading of the figure.
        series: name to points; lines differ in colour and in dashes.
        log: offer a logarithmic axis too; it is left out when a value is not positive.
        mark: a point to ring, such as the best epoch.
        from_zero: begin the linear axis at zero.
    """
    values = [value for points in series.values() for _, value in points]
    scales = {"linear": _linear_scale([0.0, *values] if from_zero else values)}
    if log and min(values) > 0 and max(values) > min(values):
        scales["log"] = _log_scale(values)
    epochs = [epoch for points in series.values() for epoch, _ in points]
    across = _across(min(epochs), max(epochs))
    layers = [
        tag(
            "g",
            _axes(ticks, place, epochs, across),
            _lines(series, across, place),
            _ring(mark, across, place),
            class_=f"scale {name}",
            hidden=name != "linear",
        )
        for name, (ticks, place) in scales.items()
    ]
    points = {
        name: [
            [round(across(epoch), 1), *(round(place(value), 1) for _, place in scales.values()), epoch, value]
            for epoch, value in line
        ]
        for name, line in series.items()
    }
    last = ", ".join(f"{name} {line[-1][1]:.4g}" for name, line in series.items()) + f" in epoch {max(epochs):g}"
    summary = "; ".join(f"{name}: from {line[0][1]:.4g} to {line[-1][1]:.4g}" for name, line in series.items())
    picture = tag(
        "svg",
        *layers,
        tag("line", class_="cursor", y1=_TOP, y2=_HEIGHT - _BOTTOM, x1=0, x2=0, visibility="hidden"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        tabindex=0,
        aria_label=f"{title} over epochs. {summary}. Arrow keys read the values.",
        data_points=json.dumps(points),
    )
    toggle = (
        tag("button", "log scale", type="button", class_="log-toggle", aria_pressed="false")
        if len(scales) > 1
        else None
    )
    head = tag("figcaption", tag("span", title, class_="chart-title"), _legend(list(series)), toggle)
    return tag("figure", head, picture, tag("p", last, class_="readout", role="status"), class_="chart")


def _across(first: float, last: float) -> Callable[[float], float]:
    span = _WIDTH - _LEFT - _RIGHT
    if last <= first:
        return lambda epoch: _LEFT + span / 2
    return lambda epoch: _LEFT + 8 + (span - 16) * (epoch - first) / (last - first)


def _linear_scale(values: Sequence[float]) -> tuple[list[float], Callable[[float], float]]:
    low, high = min(values), max(values)
    if high <= low:
        margin = abs(high) * 0.1 or 0.5
        low, high = low - margin, high + margin
    step = nice_step((high - low) / 5)
    ticks = [step * number for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]
    return ticks, _down(ticks[0], ticks[-1])


def _log_scale(values: Sequence[float]) -> tuple[list[float], Callable[[float], float]]:
    low, high = math.log10(min(values)), math.log10(max(values))
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    decades = range(math.floor(low) - 1, math.ceil(high) + 2)
    marks = [factor * 10.0**decade for decade in decades for factor in factors]
    below = max(mark for mark in marks if mark <= min(values) * (1 + 1e-9))
    above = min(mark for mark in marks if mark >= max(values) * (1 - 1e-9))
    ticks = [mark for mark in marks if below <= mark <= above]
    place = _down(math.log10(below), math.log10(above))
    return ticks, lambda value: place(math.log10(value))


def nice_step(rough: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten.

    Example:
        >>> nice_step(0.03), nice_step(7)
        (0.05, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9)) * power
    return float(f"{step:.12g}")


def _down(low: float, high: float) -> Callable[[float], float]:
    span = _HEIGHT - _TOP - _BOTTOM
    return lambda value: _TOP + span * (1 - (value - low) / (high - low))


def _axes(
    ticks: list[float], place: Callable[[float], float], epochs: list[float], across: Callable[[float], float]
) -> list[Markup]:
    parts = []
    for tick in ticks:
        height = round(place(tick), 1)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=height, y2=height, class_="grid"))
        parts.append(tag("text", f"{tick:.4g}", x=_LEFT - 8, y=height + 4, text_anchor="end"))
    first, last = min(epochs), max(epochs)
    step = max(1, round(nice_step((last - first) / 6))) if last > first else 1
    for epoch in range(int(first), int(last) + 1):
        if epoch % step == 0 or first == last:
            parts.append(tag("text", epoch, x=round(across(epoch), 1), y=_HEIGHT - _BOTTOM + 18, text_anchor="middle"))
    parts.append(tag("text", "epoch", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 5, text_anchor="middle"))
    return parts


def _lines(
    series: dict[str, list[Point]], across: Callable[[float], float], place: Callable[[float], float]
) -> list[Markup]:
    parts = []
    for number, points in enumerate(series.values()):
        spots = [(round(across(epoch), 1), round(place(value), 1)) for epoch, value in points]
        parts.append(tag("polyline", points=" ".join(f"{x},{y}" for x, y in spots), class_=f"line s{number % 6}"))
        if len(spots) <= 40:
            parts += [tag("circle", cx=x, cy=y, r=2.6, class_=f"dot s{number % 6}") for x, y in spots]
    return parts


def _ring(mark: Point | None, across: Callable[[float], float], place: Callable[[float], float]) -> list[Markup]:
    if mark is None:
        return []
    x, y = round(across(mark[0]), 1), round(place(mark[1]), 1)
    below = y + 22 if y < _HEIGHT / 2 else y - 12
    return [
        tag("circle", cx=x, cy=y, r=6.5, class_="best"),
        tag("text", "best", x=min(x, _WIDTH - 28), y=below, text_anchor="middle", class_="best-label"),
    ]


def _legend(names: list[str]) -> Markup | None:
    if len(names) < 2:
        return None
    keys = [
        tag(
            "span",
            tag(
                "svg",
                tag("line", x1=0, x2=22, y1=6, y2=6, class_=f"line s{n % 6}"),
                viewBox="0 0 22 12",
                aria_hidden="true",
            ),
            name,
            class_="key",
        )
        for n, name in enumerate(names)
    ]
    return tag("span", *keys, class_="legend")
