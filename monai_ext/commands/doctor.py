# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext doctor`: find and mend broken data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monai_ext.doctor.folder import Case


def doctor(
    folder: str,
    repair: str | None = None,
    num_classes: int | None = None,
    json: str | None = None,
    allow_empty: bool = False,
    strict: bool = False,
) -> None:
    """Find broken scans, labels and data lists, say how to mend them, and mend what can be mended in a copy.

    The exit status is 1 while the examined folder has an error, also after a repair: the copy is what is right.

    Args:
        folder: data list JSON; or a folder with datalist.json, with images/ and labels/, or with scans.
        repair: new folder for the mended copy; the source is never written to.
        num_classes: label values are 0 .. num_classes - 1 (1: 0 and 1); default: "labels" of the data list.
        json: file for the whole report.
        allow_empty: labels without foreground are intended.
        strict: warnings, too, make the exit status 1.

    Example:
        python -m monai_ext doctor ./my_data
        python -m monai_ext doctor ./my_data --repair ./my_data_mended --num_classes 4 --json report.json
    """
    import shutil
    from functools import partial
    from pathlib import Path

    from monai_ext.doctor.examine import examine
    from monai_ext.doctor.folder import find_cases
    from monai_ext.doctor.repair import REPORT, check_output
    from monai_ext.doctor.repair import repair as mend
    from monai_ext.doctor.report import as_dict, as_text, repair_text
    from monai_ext.files import write_json

    _check_options(repair, json, num_classes)
    found = find_cases(str(folder), num_classes)
    out = check_output(str(repair), found.root) if repair is not None else None
    width = min(shutil.get_terminal_size((100, 24)).columns, 140)

    examination = examine(found, allow_empty, partial(_bar, text="examine"))
    print(as_text(examination, width))
    outcome = None
    if out is not None:
        outcome = mend(examination, out, allow_empty, partial(_bar, text="repair"))
        write_json(out / REPORT, as_dict(examination, outcome))
        print("\n" + repair_text(outcome, width))
    if json is not None:
        write_json(Path(str(json)).expanduser(), as_dict(examination, outcome))
    if examination.errors or (strict and examination.findings):
        raise SystemExit(1)


def _check_options(repair: object, json: object, num_classes: object) -> None:
    from monai_ext.errors import InputError

    for name, value in (("repair", repair), ("json", json)):
        if str(value) == "True":  # what the command line makes of an option without a value
            raise InputError(f"--{name} needs a path; write --{name} PATH.")
    if num_classes is not None and (
        isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1
    ):
        raise InputError(f"--num_classes must be a whole number from 1 on, got {num_classes!r}.")


def _bar(cases: Iterable[Case], text: str) -> Iterator[Case]:
    """Show progress on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    yield from tqdm(cases, desc=text, unit="case", disable=None, leave=False)
