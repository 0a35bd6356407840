# SPDX-License-Identifier: Apache-2.0
"""The whole page: sections in the order a reader asks for them, style and script inside, nothing from outside."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from monai_ext.report.cases import group_cases
from monai_ext.report.document import document
from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.reading import (
    count_text,
    duration_text,
    interval_text,
    mapping_of,
    number_of,
    score_text,
    text_of,
)
from monai_ext.report.section_cases import cases_section
from monai_ext.report.section_curves import curves_section
from monai_ext.report.section_pictures import picture_sections, training_section
from monai_ext.report.section_prompts import prompts_section, read_records
from monai_ext.report.section_rights import cite_section, export_section, licences_section
from monai_ext.report.section_run import conventions_section, run_section
from monai_ext.report.section_scores import scores_section, sites_section
from monai_ext.report.sources import RunFolder, read_run_folder

_SCRIPTS = ("charts.js", "table.js", "viewer.js")


class Report(NamedTuple):
    """A finished page.

    Attributes:
        html: the page.
        cases: number of cases in it.
        problems: file name to what is wrong with it, for the files that could not be used.
    """

    html: str
    cases: int
    problems: dict[str, str]


def build_report(bundle_root: Path, output_dir: Path) -> Report:
    """Return the report of the run in ``output_dir`` of the bundle at ``bundle_root``; it loads nothing from a network.

    Missing files do not stop it: the section says what is missing and which command makes it.
    """
    folder = read_run_folder(bundle_root, output_dir)
    cases = group_cases(folder.rows)
    records, unreadable = read_records(cases)
    examples, slices = picture_sections(folder, cases, list(records.values()))
    sections = {
        "Scores": scores_section(folder),
        "Sites": sites_section(folder),
        "Prompts": prompts_section(folder, cases, records, unreadable),
        "Examples": examples,
        "Slice by slice": slices,
        "Training": join([curves_section(folder), tag("h3", "Pictures drawn in training"), training_section(folder)]),
        "Cases": cases_section(folder),
        "Export": export_section(folder),
        "What was run": run_section(folder),
        "Conventions": conventions_section(folder),
        "Licences": licences_section(folder),
        "How to cite": cite_section(folder),
    }
    shown = {title: content for title, content in sections.items() if content}
    name, version = _name(folder), text_of(mapping_of(folder.run.get("versions")).get("monai_ext"))
    html = document(f"{name}: report", name, _header(folder), shown, "report", version, _SCRIPTS)
    return Report(html, len(cases), folder.problems)


def _name(folder: RunFolder) -> str:
    return text_of(folder.run.get("bundle")) or text_of(folder.metadata.get("name")) or folder.bundle_root.name


def _header(folder: RunFolder) -> Markup:
    run = folder.run
    status = text_of(run.get("status")) or "no record"
    kind = {"finished": "good", "failed": "bad"}.get(status, "open")
    version = text_of(run.get("bundle_version"))
    description = text_of(folder.metadata.get("description"))
    line = " · ".join(
        part
        for part in (f"version {version}" if version else "", text_of(run.get("started"))[:16].replace("T", " "))
        if part
    )
    return tag(
        "header",
        tag("h1", _name(folder), " ", tag("span", status, class_=f"badge {kind}")),
        tag("p", description, class_="lead") if description else None,
        tag("p", line, class_="muted") if line else None,
        tag("div", _cards(folder), class_="cards"),
        class_="hero",
    )


def _cards(folder: RunFolder) -> list[Markup]:
    run, summary = folder.run, folder.summary
    overall = mapping_of(mapping_of(summary.get("mean_foreground")).get("dice"))
    parameters = mapping_of(run.get("parameters"))
    trainable, total = number_of(parameters.get("trainable")), number_of(parameters.get("total"))
    share = f"{trainable / total:.1%} of {count_text(total)}" if trainable is not None and total else ""
    gpus = text_of(mapping_of(run.get("hardware")).get("gpus"))
    facts = [
        ("mean Dice", score_text(overall.get("mean")) if overall else "", interval_text(overall)),
        ("cases", count_text(summary.get("cases")), ""),
        ("time", duration_text(run.get("seconds")), f"{len(folder.epochs)} epochs" if folder.epochs else ""),
        ("trained parameters", count_text(trainable), share),
        ("device", text_of(run.get("device")), gpus or text_of(mapping_of(run.get("hardware")).get("cpu"))),
    ]
    return [
        tag(
            "div",
            tag("span", label, class_="label"),
            tag("strong", value),
            tag("small", detail) if detail else None,
            class_="card",
        )
        for label, value, detail in facts
        if value
    ]
