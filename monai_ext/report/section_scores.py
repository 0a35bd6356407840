# SPDX-License-Identifier: Apache-2.0
"""The scores: per class with intervals, per case in a table that sorts and filters, per site."""

from __future__ import annotations

from monai_ext.report.cases import class_names
from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.notices import missing_notice
from monai_ext.report.palette import class_colour, css_colour
from monai_ext.report.reading import count_text, interval_text, list_of, mapping_of, number_of, score_text, text_of
from monai_ext.report.sources import RunFolder
from monai_ext.report.strips import StripRow, axis_start, strip_chart

# column of cases.csv: title, unit, digits, whether more is better
METRICS = {
    "dice": ("Dice", "", 3, True),
    "iou": ("IoU", "", 3, True),
    "nsd": ("NSD", "", 3, True),
    "hd95_mm": ("HD95", "mm", 2, False),
    "asd_mm": ("ASD", "mm", 2, False),
}
_MOST_ROWS = 3000

Record = tuple[str, Markup | None, dict[str, object]]  # name, colour, metrics


def scores_section(folder: RunFolder) -> Markup:
    """Return the strip chart and the summary table."""
    classes = [mapping_of(record) for record in list_of(folder.summary.get("classes"))]
    if not classes:
        return missing_notice(folder, "summary.json")
    records: list[Record] = [_record(record) for record in classes]
    overall = mapping_of(folder.summary.get("mean_foreground"))
    if overall and len(classes) > 1:
        records.append(("mean of classes", None, overall))
    head = tag("tr", tag("th", "class", scope="col"), [_metric_head(key) for key in METRICS])
    body = [
        tag("tr", tag("th", swatch, name, scope="row"), [_interval_cell(metrics, key) for key in METRICS])
        for name, swatch, metrics in records
    ]
    table = tag("div", tag("table", tag("thead", head), tag("tbody", body), class_="summary"), class_="scroll")
    return join([_strips(folder, classes), table, _full_table(records)])


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
    cut = (
        tag("p", f"The {len(shown)} lowest Dice of {len(rows)} rows; cases.csv has all.", class_="muted")
        if len(shown) < len(rows)
        else None
    )
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), tag("tfoot", foot), class_="cases")
    return join(
        [
            _filters(rows),
            tag("div", table, class_="scroll tall", tabindex=0, role="region", aria_label="All cases"),
            cut,
        ]
    )


def sites_section(folder: RunFolder) -> Markup | None:
    """Return one row per site, or None when the data have no sites."""
    sites = {name: mapping_of(record) for name, record in mapping_of(folder.summary.get("sites")).items()}
    if not sites:
        return None
    keys = [key for key in METRICS if any(key in record for record in sites.values())]
    counts = {name: len({row["case"] for row in folder.rows if row.get("site") == name}) for name in sites}
    head = tag(
        "tr",
        tag("th", "site", scope="col"),
        tag("th", "cases", scope="col", class_="number"),
        [_metric_head(key) for key in keys],
    )
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", counts[name] or "–", class_="number"),
            [_site_cell(record, key) for key in keys],
        )
        for name, record in sites.items()
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="scroll")


def _record(record: dict[str, object]) -> Record:
    return _class_name(record), _swatch(record), mapping_of(record.get("metrics"))


def _class_name(record: dict[str, object]) -> str:
    return text_of(record.get("name")) or f"class {text_of(record.get('class'))}"


def _swatch(record: dict[str, object]) -> Markup:
    index = int(number_of(record.get("class")) or 1)
    return tag("span", class_="swatch", style=f"background:{css_colour(class_colour(max(index, 1)))}")


def _metric_head(key: str) -> Markup:
    title, unit, _, up = METRICS[key]
    better = "higher is better" if up else "lower is better"
    return tag(
        "th",
        title,
        tag("small", f" {unit}") if unit else None,
        tag("span", " ↑" if up else " ↓", title=better),
        scope="col",
        class_="number",
    )


def _interval_cell(metrics: dict[str, object], key: str) -> Markup:
    metric, digits = mapping_of(metrics.get(key)), METRICS[key][2]
    return tag(
        "td",
        score_text(metric.get("mean"), digits),
        tag("small", interval_text(metric, digits), class_="interval-text"),
        class_="number",
    )


def _site_cell(record: dict[str, object], key: str) -> Markup:
    value = record.get(key)
    if isinstance(value, dict):
        return _interval_cell(record, key)
    return tag("td", score_text(value, METRICS[key][2]), class_="number")


def _strips(folder: RunFolder, classes: list[dict[str, object]]) -> Markup | None:
    rows = []
    for record in classes:
        index = number_of(record.get("class"))
        found = [
            (score, row["case"])
            for row in folder.rows
            if number_of(row.get("class")) == index and (score := number_of(row.get("dice"))) is not None
        ]
        metric = mapping_of(mapping_of(record.get("metrics")).get("dice"))
        rows.append(StripRow(_class_name(record), class_colour(max(int(index or 1), 1)), metric, sorted(found)))
    if not any(row.values for row in rows):
        return None
    note = tag("figcaption", "Dice of every case (dots), mean (bar) and 95 % interval of the mean (band).")
    return tag("figure", tag("div", strip_chart(rows, "Dice"), class_="scroll"), note, class_="strip-figure")


def _full_table(records: list[Record]) -> Markup:
    names = ("mean", "median", "std", "low", "high", "n")
    head = tag(
        "tr",
        tag("th", "class", scope="col"),
        tag("th", "metric", scope="col"),
        [tag("th", name, scope="col", class_="number") for name in names],
    )
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", METRICS[key][0]),
            [_statistic(mapping_of(metrics[key]), part, METRICS[key][2]) for part in names],
        )
        for name, _, metrics in records
        for key in METRICS
        if key in metrics
    ]
    return tag(
        "details",
        tag("summary", "Median, spread and number of cases"),
        tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="scroll"),
    )


def _statistic(metric: dict[str, object], part: str, digits: int) -> Markup:
    return tag(
        "td", count_text(metric.get(part)) if part == "n" else score_text(metric.get(part), digits), class_="number"
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
    cells = [tag("td", _swatch({"class": row.get("class")}), name), *(tag("td", row.get(key, "")) for key in extra)]
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
            tag("td", _swatch(record), _class_name(record), colspan=1 + extra),
            [_interval_cell(mapping_of(record.get("metrics")), key) for key in keys],
            tag("td", colspan=2),
        )
        for record in records
    ]
