# SPDX-License-Identifier: Apache-2.0
"""Tell what was found: a table grouped by file for the terminal, a dictionary for JSON."""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from itertools import groupby

from .check_labels import show
from .examine import Examination
from .finding import RULES, Finding
from .repair import Repair

MOST_FILES = 40


def as_dict(examination: Examination, repair: Repair | None = None) -> dict[str, object]:
    """Return everything: what was examined, every finding, and what a repair wrote and left out."""
    folder = examination.folder
    found = examination.findings
    return {
        "folder": str(folder.root),
        "layout": folder.layout,
        "cases": len(folder.cases),
        "files": examination.files,
        "classes": sorted(folder.classes) if folder.classes else None,
        "label_values": list(examination.values),
        "errors": sum(one.is_error for one in found),
        "warnings": sum(not one.is_error for one in found),
        "findings": [one.as_dict() for one in found],
        "repair": repair.as_dict() if repair else None,
        "quarantine": repair.quarantine if repair else quarantine_of(examination),
    }


def quarantine_of(examination: Examination) -> list[dict[str, object]]:
    """Return what has errors, which training should leave out until it is mended."""
    rows: list[dict[str, object]] = []
    for case, found in examination.found.items():
        reasons = [one.reason for one in found if one.is_error]
        if reasons:
            files = [examination.folder.name_of(path) for path, _ in case.files]
            rows.append({"section": case.section, "files": files, "reasons": reasons})
    loose = [one for one in examination.loose if one.code == "unpaired_file"]
    return rows + [{"section": "", "files": [one.file], "reasons": [one.reason]} for one in loose]


def as_text(examination: Examination, width: int = 100) -> str:
    """Return the table for a person, at most ``width`` columns wide."""
    lines = _head(examination)
    groups = [(file, list(found)) for file, found in groupby(examination.findings, key=lambda one: one.file)]
    for file, found in groups[:MOST_FILES]:
        lines += ["", file]
        for one in found:
            lines += _rows(one, width)
    if len(groups) > MOST_FILES:
        lines += ["", f"... and {len(groups) - MOST_FILES} more files; --json report.json writes them all"]
    return "\n".join([*lines, "", *_summary(examination, len(groups), width)])


def repair_text(outcome: Repair, width: int = 100) -> str:
    """Return what a repair did."""
    lines = [f"Repaired copy: {outcome.out}"]
    for row in outcome.repaired[:MOST_FILES]:
        lines += _wrapped("  mended    ", f"{row['written']}: {'; '.join(map(str, _list(row['done'])))}", width)
    for row in outcome.quarantine[:MOST_FILES]:
        lines += _wrapped("  left out  ", f"{', '.join(map(str, _list(row['files'])))} ({_codes(row)})", width)
    hidden = max(0, len(outcome.repaired) - MOST_FILES) + max(0, len(outcome.quarantine) - MOST_FILES)
    lines += [f"  ... and {hidden} more"] if hidden else []
    same = len(outcome.targets) - len(outcome.repaired)
    return "\n".join(
        [
            *lines,
            f"  {len(outcome.repaired)} files mended and read again, {same} copied unchanged, "
            f"{len(outcome.quarantine)} {_plural('case', len(outcome.quarantine))} left out (why: doctor_report.json)",
        ]
    )


def _head(examination: Examination) -> list[str]:
    folder = examination.folder
    sections = Counter(case.section for case in folder.cases if case.section)
    cases = ", ".join(f"{count} {name}" for name, count in sections.items()) or f"{len(folder.cases)} cases"
    lines = [f"{folder.root}: {folder.layout}, {cases}, {examination.files} files read"]
    if any(case.label for case in folder.cases):
        if folder.classes is None:
            seen = show(examination.values) or "none"
            lines.append(f"label values seen: {seen}; pass --num_classes N to have them checked")
        else:
            lines.append(f"label values seen: {show(examination.values) or 'none'}; {_classes(folder.classes)}")
    return lines


def _classes(classes: frozenset[int]) -> str:
    return f"allowed: {show(tuple(sorted(classes)))}"


def _rows(one: Finding, width: int) -> list[str]:
    lines = _wrapped(f"  {one.severity:<8}{one.code:<23}", one.what, width)
    if one.repair:
        return lines + _wrapped(f"  {'':<8}{'--repair will':<23}", one.repair, width)
    return lines + _wrapped(f"  {'':<8}{'to mend':<23}", one.remedy, width)


def _wrapped(first: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 60),
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(examination: Examination, files: int, width: int) -> list[str]:
    found = examination.findings
    if not found:
        return ["Nothing is wrong."]
    lines = []
    counts = Counter(one.code for one in found)
    for code in (code for code in RULES if counts[code]):
        lines += _wrapped(f"  {counts[code]:>4}  {code:<23}", RULES[code].meaning, width)
    errors = sum(one.is_error for one in found)
    mendable = sum(one.repairable for one in found)
    total = f"{errors} {_plural('error', errors)}, {len(found) - errors} {_plural('warning', len(found) - errors)} in "
    lines.append(f"{total}{files} {_plural('file', files)}; --repair can mend {mendable}.")
    if mendable:
        lines.append(f"  python -m monai_ext doctor {shlex.quote(str(examination.folder.root))} --repair NEW_FOLDER")
    return lines


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _codes(row: dict[str, object]) -> str:
    return ", ".join(dict.fromkeys(str(reason).split(":", 1)[0] for reason in _list(row["reasons"])))
