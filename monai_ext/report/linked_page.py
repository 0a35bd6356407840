# SPDX-License-Identifier: Apache-2.0
"""A page that shows points and their matches in two scans side by side: choose a point, and both scans go there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai_ext import __version__
from monai_ext.report.document import document
from monai_ext.report.linked_points import LinkedPoint, LinkedScans
from monai_ext.report.linked_views import LinkedViews, draw_views
from monai_ext.report.markup import Markup, join, json_block, tag
from monai_ext.report.scans import PLANES

PAGE_BYTES = 6_000_000


def linked_page(
    title: str,
    lead: str,
    groups: Sequence[LinkedScans],
    command: str,
    how: Mapping[str, str],
    warnings: Sequence[str] = (),
    window: tuple[float, float] | None = None,
    budget: int = PAGE_BYTES,
) -> str:
    """Return one HTML file that loads nothing from anywhere.

    Args:
        title: of the page.
        lead: a sentence on what it shows.
        groups: pairs of scans with their points.
        command: of ``python -m monai_ext`` that made it.
        how: name and value of what the result rests on: weights, settings.
        warnings: sentences to be read before anything else.
        window: intensities shown as black and white. Default: what most of a scan's voxels lie between.
        budget: characters that the pictures may take; points beyond it are listed without.

    Raises:
        InputError: a scan cannot be shown.
    """
    views = draw_views(groups, window, budget)
    header = tag(
        "header",
        tag("h1", title),
        tag("p", lead, class_="lead"),
        [tag("div", warning, class_="missing") for warning in warnings],
        class_="hero",
    )
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in how.items()]
    sections = {
        "Point by point": _linked(groups, views),
        "All numbers": join(_table(group) for group in groups),
        "How": tag("div", tag("table", tag("tbody", rows)), class_="scroll"),
    }
    return document(title, title, header, sections, command, __version__, ("linked.js",), ("linked.css",))


def _linked(groups: Sequence[LinkedScans], views: LinkedViews) -> Markup:
    if not views.points:
        return tag("p", "There are no points.", class_="missing")
    return tag(
        "div",
        tag("p", _HELP, class_="muted small help"),
        tag("div", _list(groups), _stage(groups[views.points[0]["group"]], views.points[0]), class_="linked"),  # type: ignore[call-overload]
        tag("noscript", tag("div", _NO_SCRIPT, class_="missing")),
        [tag("p", note, class_="muted small note") for note in views.notes],
        json_block("linked-data", {"titles": [group.titles for group in groups], "points": views.points}),
        id="linked",
    )


_HELP = (
    "Choose a point in the list, or go through it with the arrow keys: both scans show the three slices through it, "
    "with the point under the cross."
)
_NO_SCRIPT = "Only the first point is shown, since JavaScript is switched off in this browser; all numbers are below."


def _list(groups: Sequence[LinkedScans]) -> Markup:
    options, number = [], 0
    for group in groups:
        if len(groups) > 1:
            options.append(tag("div", group.titles[1], class_="list-title", role="presentation"))
        for point in group.points:
            options.append(_option(point, number))
            number += 1
    return tag(
        "div",
        options,
        id="points",
        class_="points",
        role="listbox",
        tabindex=0,
        aria_label="points",
        aria_activedescendant="point-0",
    )


def _option(point: LinkedPoint, number: int) -> Markup:
    return tag(
        "div",
        tag("span", point.name, class_="point-name"),
        tag("span", point.status, class_=f"badge {point.kind}"),
        id=f"point-{number}",
        class_="point",
        role="option",
        data_point=number,
        aria_selected="true" if number == 0 else "false",
    )


def _stage(group: LinkedScans, first: Mapping[str, object]) -> Markup:
    """Return the views with the first point in them, which is what a reader without JavaScript sees."""
    views: Sequence[Mapping[str, Mapping[str, object]] | None] = first["views"]  # type: ignore[assignment]
    facts = [(tag("dt", name), tag("dd", value)) for name, value in first["facts"]]  # type: ignore[attr-defined]
    rows = [
        tag(
            "section",
            tag("h4", title, id=f"scan-{side}"),
            tag("p", "No place in this scan.", class_="muted nowhere", hidden=view is not None),
            tag("div", [_figure(side, plane, (view or {}).get(plane, {})) for plane in PLANES], class_="planes"),
            class_="scan",
            data_side=side,
        )
        for side, (title, view) in enumerate(zip(group.titles, views, strict=True))
    ]
    head = tag("h3", tag("span", first["name"], id="chosen"), " ", _badge(first), aria_live="polite")
    return tag("div", head, tag("dl", facts, class_="facts", id="facts"), rows, class_="views")


def _badge(first: Mapping[str, object]) -> Markup:
    return tag("span", first["status"], id="chosen-status", class_=f"badge {first['kind']}")


def _figure(side: int, plane: str, view: Mapping[str, object]) -> Markup:
    edges: Sequence[str] = view.get("edges", ("", "", "", ""))  # type: ignore[assignment]
    names = ("left", "right", "top", "bottom")
    caption = str(view.get("caption", ""))
    return tag(
        "figure",
        tag(
            "div",
            tag("img", src=view.get("src", "data:,"), alt=view.get("alt", "no picture"), hidden="src" not in view),
            tag("span", class_="cross", aria_hidden="true", hidden="src" not in view),
            [tag("span", letter, class_=f"edge {name}") for name, letter in zip(names, edges, strict=True)],
            class_="pane",
        ),
        tag("figcaption", tag("b", plane), " ", tag("span", caption)),
        id=f"view-{side}-{plane}",
    )


def _table(group: LinkedScans) -> Markup:
    """Return all that is known of all points."""
    names = list(dict.fromkeys(name for point in group.points for name, _ in point.facts))
    head = [tag("th", text, scope="col") for text in ("point", "status", *names)]
    rows = []
    for point in group.points:
        facts = dict(point.facts)
        cells = [tag("td", facts.get(name, "")) for name in names]
        badge = tag("td", tag("span", point.status, class_=f"badge {point.kind}"))
        rows.append(tag("tr", tag("th", point.name, scope="row"), badge, cells))
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="numbers")
    return join([tag("h3", " and ".join(group.titles)), tag("div", table, class_="scroll")])
