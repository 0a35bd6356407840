# SPDX-License-Identifier: Apache-2.0
"""Every case and class in one table that sorts and filters."""

from __future__ import annotations

from monai_ext.report.cases import class_names
from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.notices import missing_notice
from monai_ext.report.reading import count_text, list_of, mapping_of, number_of, score_text
from monai_ext.report.score_cells import METRICS, class_title, interval_cell, swatch
from monai_ext.report.sources import RunFolder
from monai_ext.report.strips import axis_start

_MOST_ROWS = 3000


def cases_section(folder: RunFolder) -> Markup:
    """Return the table of all cases and classes with its search field and filters."""
    if not folder.rows:
        return missing_notice(folder, "cases.csv")
    rows = sorted(folder.rows, key=lambda row: (number_of(row.get("dice")) is None, number_of(row.get("dice")) or 0.0))
    shown = rows[:_MOST_ROWS]
    extra = [key for key in ("site", "subject") if any(row.get(key) for row in rows)]
    keys = [key for key in METRICS if any(row.get(key) for row in rows)]
    bands = {
        number_of(mapping_of(record).get("class")): mapping_of(mapping_of(record).get("metrics"))
        for record in list_of(folder.summary.get("classes"))
    }
    start = axis_start([score for row in rows if (score := number_of(row.get("dice"))) is not None])
    head = [_sorter(name, "text") for name in ("case", "class", *extra)]
    head += [_sorter(" ".join(METRICS[key][:2]).strip(), "number") for key in keys]
    head += [_sorter(name, "number") for name in ("truth voxels", "predicted voxels")]
    body = [_case_row(row, extra, keys, bands.get(number_of(row.get("class")), {}), start) for row in shown]
    foot = _case_foot(folder, len(extra), keys)
    note = f"The bars run from {start:g} to 1: the mark is the case, the band the interval of its class's mean."
    if len(shown) < len(rows):
        note += f" These are the {len(shown)} rows with the lowest Dice of {len(rows)}; cases.csv has all."
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), tag("tfoot", foot), class_="cases")
    return join(
        [
            _filters(rows),
            tag("div", table, class_="scroll tall", tabindex=0, role="region", aria_label="All cases"),
            tag("p", note, class_="muted small"),
        ]
    )


def _filters(rows: list[dict[str, str]]) -> Markup:
    choices = {
        "class": list(class_names(rows).values()),
        "site": sorted({row["site"] for row in rows if row.get("site")}),
    }
    selects = [
        tag(
            "label",
            name,
            tag(
                "select",
                tag("option", "all", value=""),
                [tag("option", value, value=value) for value in values],
                data_filter=name,
            ),
        )
        for name, values in choices.items()
        if len(values) > 1
    ]
    search = tag("label", "search", tag("input", type="search", data_filter="text", placeholder="case, subject …"))
    return tag(
        "div",
        search,
        selects,
        tag("span", f"{len(rows)} rows", class_="muted", role="status", data_count=True),
        class_="filters",
    )


def _sorter(name: str, kind: str) -> Markup:
    return tag(
        "th",
        tag("button", name, type="button"),
        scope="col",
        aria_sort="none",
        data_kind=kind,
        class_="number" if kind == "number" else None,
    )


def _case_row(row: dict[str, str], extra: list[str], keys: list[str], bands: dict[str, object], start: float) -> Markup:
    name = row.get("class_name") or row.get("class", "")
    cells = [tag("td", swatch({"class": row.get("class")}), name), *(tag("td", row.get(key, "")) for key in extra)]
    for key in keys:
        value = number_of(row.get(key))
        bar = _bar(value, mapping_of(bands.get(key)), start) if key == "dice" and value is not None else None
        cells.append(
            tag(
                "td",
                score_text(value, METRICS[key][2]),
                bar,
                class_="number",
                data_value="" if value is None else value,
            )
        )
    for key in ("truth_voxels", "predicted_voxels"):
        value = number_of(row.get(key))
        cells.append(tag("td", count_text(value) or "–", class_="number", data_value="" if value is None else value))
    return tag("tr", tag("th", row["case"], scope="row"), cells, data_class=name, data_site=row.get("site"))


def _bar(value: float, metric: dict[str, object], start: float) -> Markup:
    """Return a small scale from ``start`` to 1 with the case as a mark on the interval of its class's mean."""
    low, high = number_of(metric.get("low")), number_of(metric.get("high"))
    band = None
    if low is not None and high is not None:
        left = _percent(low, start)
        band = tag("i", class_="band", style=f"left:{left:.1f}%;width:{max(_percent(high, start) - left, 1):.1f}%")
    mark = tag("i", class_="mark", style=f"left:{_percent(value, start):.1f}%")
    return tag("span", band, mark, class_="bar", aria_hidden="true")


def _percent(value: float, start: float) -> float:
    return min(max((value - start) / (1 - start), 0), 1) * 100


def _case_foot(folder: RunFolder, extra: int, keys: list[str]) -> list[Markup]:
    records = [mapping_of(record) for record in list_of(folder.summary.get("classes"))]
    return [
        tag(
            "tr",
            tag("th", "mean, 95 % interval", scope="row"),
            tag("td", swatch(record), class_title(record), colspan=1 + extra),
            [interval_cell(mapping_of(record.get("metrics")), key) for key in keys],
            tag("td", colspan=2),
        )
        for record in records
    ]
