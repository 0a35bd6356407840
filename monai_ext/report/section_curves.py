# SPDX-License-Identifier: Apache-2.0
"""Loss, metrics and learning rate over the epochs."""

from __future__ import annotations

from monai_ext.report.charts import Point, line_chart
from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.notices import missing_notice
from monai_ext.report.reading import mapping_of, number_of, score_text
from monai_ext.report.sources import RunFolder

_MOST_LINES = 6


def curves_section(folder: RunFolder) -> Markup:
    """Return the curves and, for reading without a picture, the same numbers as a table."""
    series = _series(folder.epochs)
    if not series:
        return missing_notice(folder, "history.json")
    groups = {
        "Loss": {name: line for name, line in series.items() if "loss" in name},
        "Validation": {name: line for name, line in series.items() if name.startswith("val_") and "loss" not in name},
        "Learning rate": {name: line for name, line in series.items() if name == "learning_rate"},
        "Seconds per epoch": {name: line for name, line in series.items() if name == "seconds"},
    }
    charts = [
        line_chart(
            title,
            dict(list(lines.items())[:_MOST_LINES]),
            log=title in ("Loss", "Learning rate"),
            mark=_best(folder, lines),
            from_zero=title == "Seconds per epoch",
        )
        for title, lines in groups.items()
        if lines
    ]
    return join([tag("div", charts, class_="charts"), _table(folder.epochs, list(series))])


def _series(epochs: list[dict[str, object]]) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for position, record in enumerate(epochs, start=1):
        epoch = number_of(record.get("epoch"))
        for name, value in record.items():
            number = number_of(value)
            if name != "epoch" and number is not None:
                series.setdefault(name, []).append((position if epoch is None else epoch, number))
    return series


def _best(folder: RunFolder, lines: dict[str, list[Point]]) -> Point | None:
    """Return the best epoch's point if it lies on one of the lines."""
    best = mapping_of(folder.run.get("best"))
    epoch, value = number_of(best.get("epoch")), number_of(best.get("value"))
    if epoch is None or value is None:
        return None
    for name, line in lines.items():
        for point in line:
            if name.endswith(str(best.get("metric"))) and point[0] == epoch and abs(point[1] - value) < 1e-3:
                return point
    return None


def _table(epochs: list[dict[str, object]], names: list[str]) -> Markup:
    head = tag("tr", tag("th", "epoch", scope="col"), [tag("th", name, scope="col", class_="number") for name in names])
    rows = [
        tag(
            "tr",
            tag("th", record.get("epoch", ""), scope="row"),
            [tag("td", _cell(record.get(name)), class_="number") for name in names],
        )
        for record in epochs
    ]
    return tag(
        "details",
        tag("summary", "The numbers of the curves"),
        tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll tall"),
    )


def _cell(value: object) -> str:
    number = number_of(value)
    if number is None or number == 0:
        return score_text(number)
    return f"{number:.2e}" if abs(number) < 1e-3 else f"{number:.4f}"
