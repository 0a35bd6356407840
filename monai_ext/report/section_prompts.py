# SPDX-License-Identifier: Apache-2.0
"""What the prompts were, and what they are worth."""

from __future__ import annotations

from collections import Counter

from monai_ext.errors import InputError
from monai_ext.report.cases import ScoredCase
from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.prompt_record import PromptRecord, read_prompts
from monai_ext.report.reading import count_text, interval_text, score_text
from monai_ext.report.sources import RunFolder
from monai_ext.report.strips import StripRow, strip_chart
from monai_ext.report.variants import Variant, read_variants

_GREY = (122, 132, 145)  # colours stand for classes
_MOST_PROBLEMS = 5
_MOST_CASES = 1000


def read_records(cases: list[ScoredCase]) -> tuple[dict[str, PromptRecord], dict[str, str]]:
    """Return case name to its record of prompts, and case name to what is wrong with a record that is none."""
    records: dict[str, PromptRecord] = {}
    problems: dict[str, str] = {}
    for case in cases:
        if "prediction" not in case.files:
            continue
        try:
            record = read_prompts(case.files["prediction"])
        except InputError as error:
            problems[case.name] = str(error)
            continue
        if record is not None:
            records[case.name] = record
    return records, problems


def prompts_section(
    folder: RunFolder, cases: list[ScoredCase], records: dict[str, PromptRecord], problems: dict[str, str]
) -> Markup | None:
    """Return what prompts are worth and how many slices used which, or None where there is neither."""
    variants = read_variants(folder)
    if not (records or problems or len(variants) > 1):
        return None
    parts = _worth(variants) if len(variants) > 1 else []
    return join([*parts, _problems(problems), *(_used(cases, records) if records else ())])


def _problems(problems: dict[str, str]) -> Markup | None:
    if not problems:
        return None
    shown = [tag("div", f"{name}: {problem}") for name, problem in list(problems.items())[:_MOST_PROBLEMS]]
    more = len(problems) - len(shown)
    return tag("div", tag("strong", "Prompts of some cases are unknown."), shown, _more(more), class_="missing")


def _more(count: int) -> str | None:
    return f"and {count} more" if count > 0 else None


def _worth(variants: list[Variant]) -> list[Markup]:
    run = next((variant for variant in variants if variant.is_run), None)
    head = [tag("th", "prompt", scope="col"), tag("th", "where it came from", scope="col")]
    head += [tag("th", name, scope="col", class_="number") for name in ("Dice ↑", "cases", "against this run")]
    body = [_worth_row(variant, run) for variant in variants]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="summary")
    table = tag("div", table, class_="scroll")
    return [part for part in (tag("h3", "What the prompt is worth"), _strips(variants), table) if part]


def _worth_row(variant: Variant, run: Variant | None) -> Markup:
    name = tag("strong", variant.name) if variant.is_run else variant.name
    dice = [score_text(variant.dice.get("mean")), tag("small", interval_text(variant.dice), class_="interval-text")]
    return tag(
        "tr",
        tag("th", name, " (this run)" if variant.is_run else None, scope="row"),
        tag("td", variant.origin),
        tag("td", dice, class_="number"),
        tag("td", count_text(variant.dice.get("n")) or "–", class_="number"),
        tag("td", _difference(variant, run), class_="number"),
    )


def _difference(variant: Variant, run: Variant | None) -> list[object]:
    """Return by how much the mean differs, over the cases that both scored, and in how many it is higher."""
    if run is None or variant.is_run:
        return ["–"]
    pairs = [(score, run.cases[name]) for name, score in variant.cases.items() if name in run.cases]
    if not pairs:
        return ["–"]
    mean = sum(score - own for score, own in pairs) / len(pairs)
    higher, lower = sum(score > own for score, own in pairs), sum(score < own for score, own in pairs)
    text = f"{mean:+.3f}".replace("-", "−")
    return [text, tag("small", f"higher in {higher}, lower in {lower} of {len(pairs)}", class_="interval-text")]


def _strips(variants: list[Variant]) -> Markup | None:
    rows = [
        StripRow(variant.name, _GREY, variant.dice, sorted((score, name) for name, score in variant.cases.items()))
        for variant in variants
    ]
    if not any(row.values for row in rows):
        return None
    note = tag("figcaption", "Dice of every case (dots), mean (bar) and 95 % interval of the mean (band).")
    chart = strip_chart(rows, "Dice", "prompt")
    return tag("figure", tag("div", chart, class_="scroll"), note, class_="strip-figure")


def _used(cases: list[ScoredCase], records: dict[str, PromptRecord]) -> list[Markup]:
    total = Counter[str]()
    for record in records.values():
        total.update(record.counts())
    single = all(len(record.slices) == 1 for record in records.values())
    noun, slices = "image" if single else "slice", max(total.total(), 1)
    facts = [
        (tag("dt", text), tag("dd", f"{count_text(count)} {noun}{'s'[: count != 1]} ({count / slices:.0%})"))
        for text, count in total.most_common()
    ]
    without = len(cases) - len(records)
    note = f"{without} of {len(cases)} cases have no record of prompts." if without else None
    ranked = sorted((case for case in cases if case.name in records), key=lambda case: (case.dice is None, case.dice))
    return [
        tag("h3", "Prompts used"),
        tag("dl", facts, class_="facts"),
        tag("p", note, class_="muted small") if note else Markup(),
        _case_table(ranked[:_MOST_CASES], records, list(total), single) if len(total) > 1 or not single else Markup(),
    ]


def _case_table(cases: list[ScoredCase], records: dict[str, PromptRecord], names: list[str], single: bool) -> Markup:
    """Return one row per case, the lowest Dice first: its slices, how many used which prompt, and where they lie."""
    head = [tag("th", "case", scope="col"), tag("th", "Dice ↑", scope="col", class_="number")]
    if single:
        head.append(tag("th", "prompt", scope="col"))
    else:
        head += [tag("th", name, scope="col", class_="number") for name in ("slices", *names)]
        head.append(tag("th", "slices with a prompt, first to last", scope="col"))
    body = [
        tag(
            "tr",
            tag("th", case.name, scope="row"),
            tag("td", score_text(case.dice), class_="number"),
            tag("td", list(record.counts())) if single else _case_cells(record, names),
        )
        for case in cases
        for record in (records[case.name],)
    ]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="prompts-used")
    return tag("div", table, class_="scroll tall", tabindex=0, role="region", aria_label="Prompts of every case")


def _case_cells(record: PromptRecord, names: list[str]) -> list[Markup]:
    counts = record.counts()
    numbers = [len(record.slices), *(counts.get(name, 0) for name in names)]
    return [*(tag("td", count_text(number), class_="number") for number in numbers), tag("td", _strip(record))]


def _strip(record: PromptRecord) -> Markup:
    """Return the slices of a case in a line, from the patient's left, back or feet; those with a prompt are filled."""
    count = max(record.slices, default=0) + 1
    given = [index for index, prompt in sorted(record.slices.items()) if prompt.box is not None or prompt.points]
    runs: list[list[int]] = []
    for index in given:
        if runs and runs[-1][1] == index:
            runs[-1][1] = index + 1
        else:
            runs.append([index, index + 1])
    bars = [tag("rect", x=start, y=0, width=end - start, height=1) for start, end in runs]
    spans = ", ".join(f"{start + 1} to {end}" if end > start + 1 else str(end) for start, end in runs)
    label = f"slices with a prompt: {spans or 'none'} of {count}"
    return tag(
        "svg",
        tag("title", label),
        bars,
        viewBox=f"0 0 {count} 1",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="slice-strip",
    )
