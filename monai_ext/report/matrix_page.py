# SPDX-License-Identifier: Apache-2.0
"""The matrix of source by target sites as a page, as rows of a table, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.score_cells import METRICS

Content = Mapping[str, Any]
SHOWN = ("dice", "nsd", "hd95_mm")


def matrix_page(content: Content) -> str:
    """Return one HTML file, nothing from outside, for what `python -m monai_ext dg_matrix` found.

    Rows are the site that trained, columns the site that is tested; cells are darker the better, and those of the
    site's own held-out cases are framed.
    """
    style = (resources.files("monai_ext.report") / "templates" / "base.css").read_text(encoding="utf-8")
    title = f"{content['bundle']}: trained on one site, tested on all"
    head = tag("head", tag("meta", charset="utf-8"), tag("title", title), tag("style", Markup(style + _STYLE)))
    body = tag(
        "main",
        tag("div", tag("h1", title), tag("p", _LEAD, class_="lead"), class_="hero"),
        tag("section", tag("h2", "At sites never seen"), _overview(content), _compared(content)),
        [_variant(name, matrix) for name, matrix in content["variants"].items()],
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def matrix_rows(content: Content) -> list[dict[str, object]]:
    """Return one row per variant, source and target, for a CSV file."""
    return [
        {
            "variant": name,
            "source": source,
            "target": target,
            "in_domain": cell["in_domain"],
            "cases": cell["cases"],
            **{f"{score}{end}": cell[score][part] for score in METRICS for end, part in _PARTS},
        }
        for name, matrix in content["variants"].items()
        for source, cells in matrix["cells"].items()
        for target, cell in cells.items()
    ]


def matrix_text(content: Content) -> str:
    """Return the Dice of all pairs, and the means over unseen sites, as text."""
    lines: list[str] = []
    for name, matrix in content["variants"].items():
        targets = _targets(matrix)
        width = max(12, *(len(source) for source in matrix["cells"]))
        lines += ["", f"{name}: mean Dice, trained on (row), tested on (column)"]
        lines.append(" " * width + "".join(f"  {target[:12]:>12}" for target in targets))
        for source, cells in matrix["cells"].items():
            values = [
                f"{cells[t]['dice']['mean']:.3f}{'*' if t == source else ' '}" if t in cells else "" for t in targets
            ]
            lines.append(f"{source:<{width}}" + "".join(f"  {value:>12}" for value in values))
    lines += ["", "* held-out cases of the site itself. At sites never seen:"]
    for name, matrix in content["variants"].items():
        lines.append(f"  {name:<14} {_unseen_text(matrix)}")
    for name, scores in content["compared"].items():
        unseen = scores["dice"]["unseen"]
        if unseen:
            lines.append(f"  {name}: Dice {_difference_text(unseen)}; {scores['dice']['verdict']}")
    return "\n".join(lines)


_PARTS = (("", "mean"), ("_low", "low"), ("_high", "high"))
_LEAD = (
    "Means over cases, with 95 % bootstrap intervals below. Framed: held-out cases of the site that trained. NSD is "
    "the normalised surface Dice, HD95 the 95th percentile of the surface distance in mm."
)
_STYLE = """
table { border-collapse: collapse; margin: 0 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; border: 1px solid var(--rule); }
th { font-weight: 600; } th[scope=row] { text-align: left; } td small { display: block; }
td.own { outline: 2px solid var(--ink); outline-offset: -2px; } .scroll { overflow-x: auto; }
"""


def _overview(content: Content) -> Markup:
    titles = [f"{METRICS[score][0]} {'↑' if METRICS[score][3] else '↓'}" for score in SHOWN]
    head = [tag("th", text, scope="col") for text in ("method", *titles, "worst pair, Dice", "gap to own site, Dice")]
    rows = []
    for name, matrix in content["variants"].items():
        unseen, gap = matrix["unseen"], (matrix["gap"] or {}).get("dice")
        if not unseen:
            continue
        worst = unseen["worst_pair"]["dice"]
        cells = [_cell(unseen["mean_of_pairs"][score], score) for score in SHOWN]
        text = f"{worst['mean']:.3f}"
        cells.append(tag("td", text, tag("small", f"{worst['source']} to {worst['target']}")))
        cells.append(_cell(gap, "dice") if gap else tag("td", "–"))
        rows.append(tag("tr", tag("th", name, scope="row"), cells))
    return _table(head, rows)


def _compared(content: Content) -> Markup:
    if not content["compared"]:
        return Markup()
    head = [tag("th", text, scope="col") for text in ("difference", "Dice", "p", "verdict")]
    rows = []
    for name, scores in content["compared"].items():
        unseen = scores["dice"]["unseen"]
        if unseen:
            p = "–" if unseen["p"] is None else f"{unseen['p']:.2g}"
            difference = _cell({"mean": unseen["mean_difference"], **{k: unseen[k] for k in ("low", "high")}}, "dice")
            rows.append(
                tag("tr", tag("th", name, scope="row"), difference, tag("td", p), tag("td", scores["dice"]["verdict"]))
            )
    note = (
        "Case by case over all pairs of a source and another site (Wilcoxon's signed ranks). A case counts once for "
        "each source, which is not independent, so that p is smaller than it should be."
    )
    return join([tag("h3", "Compared"), _table(head, rows), tag("p", note, class_="small muted")])


def _variant(name: str, matrix: Content) -> Markup:
    return tag("section", tag("h2", name), [_matrix(matrix, score) for score in SHOWN])


def _matrix(matrix: Content, score: str) -> Markup:
    title, unit, _, better = METRICS[score]
    targets = _targets(matrix)
    values = [cell[score]["mean"] for cells in matrix["cells"].values() for cell in cells.values()]
    head = [tag("th", "trained on", scope="col"), *(tag("th", target, scope="col") for target in targets)]
    rows = [
        tag("tr", tag("th", source, scope="row"), [_shaded(cells.get(t), score, values, t == source) for t in targets])
        for source, cells in matrix["cells"].items()
    ]
    return join(
        [
            tag("h3", f"{title}{f' in {unit}' if unit else ''}, {'higher' if better else 'lower'} is better"),
            _table(head, rows),
        ]
    )


def _shaded(cell: Content | None, score: str, values: Sequence[float], own: bool) -> Markup:
    if cell is None:
        return tag("td", "–")
    low, high = min(values), max(values)
    share = (cell[score]["mean"] - low) / (high - low) if high > low else 0.5
    share = share if METRICS[score][3] else 1 - share
    return _cell(
        cell[score], score, style=f"background:rgba(11,98,168,{0.35 * share:.2f})", class_="own" if own else None
    )


def _cell(statistics: Content, score: str, **attributes: object) -> Markup:
    digits = METRICS[score][2]
    interval = None
    if statistics.get("low") is not None:
        interval = tag("small", f"{statistics['low']:.{digits}f} to {statistics['high']:.{digits}f}")
    return tag("td", f"{statistics['mean']:.{digits}f}", interval, **attributes)


def _table(head: Sequence[Markup], rows: Sequence[Markup]) -> Markup:
    return tag("div", tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)), class_="scroll")


def _targets(matrix: Content) -> list[str]:
    """Return all targets, the sources first and in their order."""
    sources = list(matrix["cells"])
    others = dict.fromkeys(target for cells in matrix["cells"].values() for target in cells)
    return [*(s for s in sources if s in others), *(target for target in others if target not in sources)]


def _unseen_text(matrix: Content) -> str:
    unseen = matrix["unseen"]
    if not unseen:
        return "none is tested"
    dice, worst = unseen["mean_of_pairs"]["dice"], unseen["worst_pair"]["dice"]
    text = (
        f"Dice {dice['mean']:.3f}{_interval(dice)}, worst {worst['mean']:.3f} ({worst['source']} to {worst['target']})"
    )
    gap = (matrix["gap"] or {}).get("dice")
    return text + (f", gap to its own site {gap['mean']:.3f}" if gap else "")


def _difference_text(unseen: Content) -> str:
    p = "" if unseen["p"] is None else f", p {unseen['p']:.2g}"
    return f"{unseen['mean_difference']:+.3f}{_interval(unseen)}{p}"


def _interval(statistics: Content) -> str:
    return "" if statistics.get("low") is None else f" [{statistics['low']:.3f}, {statistics['high']:.3f}]"
