# SPDX-License-Identifier: Apache-2.0
"""The page of all demos: what each bundle reached, its pictures, and links to what it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_ext import __version__
from monai_ext.report.document import document
from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.paint import photo_address

_WIDEST = 1100  # pixels of a picture
_TITLE = "The demos of all bundles"
_LEAD = (
    "Each bundle has learned from one average brain, on this computer's processor, from random weights. It shows that "
    "a chain works from data to report, and nothing of how good a method is."
)
_BRIEF = "Settings are short: every bundle was trained for less than its own demo, which `demo NAME` runs, would take."


def demo_page(root: Path, records: Sequence[Mapping[str, Any]], waiting: Sequence[str], command: str) -> str:
    """Return one HTML file with its pictures inside; links lead to files beside it.

    Args:
        root: the folder of the page.
        records: of each bundle that was run: ``bundle``, ``task``, ``status`` (``finished`` or ``failed``),
            ``problem``, ``seconds``, ``steps`` (title to seconds), ``settings``, ``figures`` (title to text), and
            ``files`` and ``pictures`` (title to a path below the folder).
        waiting: names of bundles still to be run.
        command: of ``python -m monai_ext`` that made it.
    """
    missing = [f"Not run yet: {', '.join(waiting)}."] if waiting else []
    minutes = sum(record["seconds"] for record in records) / 60
    header = tag(
        "header",
        tag("h1", _TITLE),
        tag("p", _LEAD, class_="lead"),
        [tag("div", text, class_="missing") for text in (_BRIEF, *missing)],
        tag("p", f"{len(records)} bundles in {minutes:.1f} minutes.", class_="muted"),
        class_="hero",
    )
    sections = {"Overview": _overview(records)} if records else {}
    sections |= {record["bundle"]: _section(root, record) for record in records}
    return document(_TITLE, "monai-ext", header, sections, command, __version__)


def _overview(records: Sequence[Mapping[str, Any]]) -> Markup:
    head = [tag("th", text, scope="col") for text in ("bundle", "", "figures", "minutes", "report")]
    rows = [tag("tr", _row(record)) for record in records]
    return tag("div", tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)), class_="scroll")


def _row(record: Mapping[str, Any]) -> list[Markup]:
    figures = [tag("div", f"{name}: {value}") for name, value in record["figures"].items()]
    report = record["files"].get("report")
    return [
        tag("th", tag("a", record["bundle"], href=f"#{record['bundle']}"), scope="row"),
        tag("td", _badge(record)),
        tag("td", figures or record["problem"]),
        tag("td", f"{record['seconds'] / 60:.1f}", class_="number"),
        tag("td", _file("report", report) if report else None),
    ]


def _badge(record: Mapping[str, Any]) -> Markup:
    return tag("span", record["status"], class_=f"badge {'good' if record['status'] == 'finished' else 'bad'}")


def _section(root: Path, record: Mapping[str, Any]) -> Markup:
    figures = [(tag("dt", name), tag("dd", value)) for name, value in record["figures"].items()]
    return join(
        [
            tag("p", record["task"], " ", _badge(record)),
            tag("div", record["problem"], class_="missing") if record["problem"] else None,
            tag("dl", figures, class_="facts") if figures else None,
            tag("p", "Files: ", _links(record["files"])) if record["files"] else None,
            [_figure(root / path, title) for title, path in record["pictures"].items()],
            _how(record),
        ]
    )


def _links(files: Mapping[str, str]) -> Markup:
    return join((", " if number else "", _file(title, path)) for number, (title, path) in enumerate(files.items()))


def _file(title: str, path: str) -> Markup:
    return tag("a", title, href=quote(path))


def _figure(path: Path, title: str) -> Markup:
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((_WIDEST, 4 * _WIDEST))
    image = tag("img", src=photo_address(np.asarray(shown)), alt=title, style="max-width:100%")
    return tag("figure", image, tag("figcaption", title))


def _how(record: Mapping[str, Any]) -> Markup:
    settings = record["settings"]
    shorter = {**settings["brief"], **settings["knobs"]}
    facts = {
        "voxels of the brain": f"{settings['resolution']} mm",
        "shorter than its own demo": ", ".join(f"{name} {value}" for name, value in shorter.items()) or "nothing",
        "seconds": ", ".join(f"{title} {seconds:.0f}" for title, seconds in record["steps"].items()),
    }
    rows = [(tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    return tag("details", tag("summary", "How long, with which settings"), tag("dl", rows, class_="facts"))
