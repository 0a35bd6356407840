# SPDX-License-Identifier: Apache-2.0
"""The scores per class with their intervals, and per site."""

from __future__ import annotations

from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.notices import missing_notice
from monai_ext.report.palette import class_colour
from monai_ext.report.reading import count_text, list_of, mapping_of, number_of, score_text
from monai_ext.report.score_cells import METRICS, class_title, interval_cell, swatch
from monai_ext.report.sources import RunFolder
from monai_ext.report.strips import StripRow, strip_chart

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
        tag("tr", tag("th", colour, name, scope="row"), [interval_cell(metrics, key) for key in METRICS])
        for name, colour, metrics in records
    ]
    table = tag("div", tag("table", tag("thead", head), tag("tbody", body), class_="summary"), class_="scroll")
    return join([_strips(folder, classes), table, _full_table(records)])


def sites_section(folder: RunFolder) -> Markup | None:
    """Return one row per site, or None when the data have no sites.

    Where the source of the training is known, the sites that it never saw are told apart and summed up.
    """
    found = mapping_of(folder.sites.get("sites")) or mapping_of(folder.summary.get("sites"))
    sites = {name: mapping_of(record) for name, record in found.items()}
    if not sites:
        return None
    keys = [key for key in METRICS if any(key in record for record in sites.values())]
    counts = {name: len({row["case"] for row in folder.rows if row.get("site") == name}) for name in sites}
    with_source = any(isinstance(record.get("in_domain"), bool) for record in sites.values())
    head = tag(
        "tr",
        tag("th", "site", scope="col"),
        tag("th", "training", scope="col") if with_source else None,
        tag("th", "cases", scope="col", class_="number"),
        [_metric_head(key) for key in keys],
    )
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", "source" if record.get("in_domain") else "unseen") if with_source else None,
            tag("td", counts[name] or "–", class_="number"),
            [_site_cell(record, key) for key in keys],
        )
        for name, record in sites.items()
    ]
    unseen = mapping_of(folder.sites.get("unseen"))
    if with_source and unseen:
        means = mapping_of(unseen.get("mean_of_sites"))
        first = [tag("th", "mean of unseen sites", scope="row"), tag("td"), tag("td", class_="number")]
        body.append(tag("tr", first, [interval_cell(means, key) for key in keys]))
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="scroll")


def _record(record: dict[str, object]) -> Record:
    return class_title(record), swatch(record), mapping_of(record.get("metrics"))


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


def _site_cell(record: dict[str, object], key: str) -> Markup:
    value = record.get(key)
    if isinstance(value, dict):
        return interval_cell(record, key)
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
        rows.append(StripRow(class_title(record), class_colour(max(int(index or 1), 1)), metric, sorted(found)))
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
