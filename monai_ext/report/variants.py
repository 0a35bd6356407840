# SPDX-License-Identifier: Apache-2.0
"""The same cases scored with other prompts: sub-folders of a run that have a summary of their own."""

from __future__ import annotations

from dataclasses import dataclass

from monai_ext.report.cases import group_cases
from monai_ext.report.reading import mapping_of, number_of, text_of
from monai_ext.report.sources import RunFolder, read_json, read_rows

# prompt_source: name, where the prompt came from; in the order in which prompts know more
_SOURCES = {
    "null": ("first mask", "no prompt: the mask that self-prompting starts from"),
    "self": ("self-prompted", "the network itself: its own first mask or grid of points, nobody told it anything"),
    "box": ("given box", "a box that was given"),
    "points": ("given points", "points that were given"),
    "truth": ("true box", "the box around the true object, which nobody has in practice"),
}
_FOLDERS = {"first_mask": "null", "true_box": "truth"}


@dataclass(frozen=True)
class Variant:
    """One way to prompt, and its scores.

    Attributes:
        name: what it is called.
        origin: where the prompts came from.
        dice: the record of the mean foreground Dice in summary.json.
        cases: case name to its mean Dice.
        is_run: whether these are the scores of the run itself.
    """

    name: str
    origin: str
    dice: dict[str, object]
    cases: dict[str, float]
    is_run: bool


def read_variants(folder: RunFolder) -> list[Variant]:
    """Return the run and its variants, those whose prompts know least first; nothing when there is no variant."""
    found: list[tuple[str, Variant]] = []
    for path in sorted(folder.output_dir.glob("*/summary.json")):
        summary = read_json(path, {})
        source = _source_of(summary) or _FOLDERS.get(path.parent.name, "")
        if source:
            rows = read_rows(path.with_name("cases.csv"), {})
            found.append((source, _variant(source, summary, rows, path.parent.name)))
    own = _source_of(folder.summary)
    if not found:
        return []
    if folder.summary:
        found.append((own, _variant(own, folder.summary, folder.rows, "")))
    order = list(_SOURCES)
    found.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return [variant for _, variant in found if number_of(variant.dice.get("mean")) is not None]


def _source_of(summary: dict[str, object]) -> str:
    source = text_of(mapping_of(summary.get("conventions")).get("prompt_source"))
    return "" if source == "none" else source


def _variant(source: str, summary: dict[str, object], rows: list[dict[str, str]], name: str) -> Variant:
    title, origin = _SOURCES.get(source, (source or "this run", "as the run recorded it"))
    if name and _FOLDERS.get(name) != source:
        title = f"{name.replace('_', ' ')} ({title})"  # two folders may have the same source
    dice = mapping_of(mapping_of(summary.get("mean_foreground")).get("dice"))
    scores = {case.name: case.dice for case in group_cases(rows) if case.dice is not None}
    return Variant(title, origin, dice, scores, is_run=not name)
