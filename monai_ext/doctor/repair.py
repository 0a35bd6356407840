# SPDX-License-Identifier: Apache-2.0
"""Write a copy of a folder in which everything that can be mended is mended, and nothing else is broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from monai_ext.errors import InputError
from monai_ext.files import write_json

from .check_pairs import Grid
from .datalist import rewritten
from .examine import Examination, examine_case
from .finding import Finding
from .folder import Case, Folder
from .mend import CannotMend, mend_grid, mend_scan
from .reading import read_scan
from .scan import Unreadable
from .writing import copy_scan, write_scan

REPORT = "doctor_report.json"


@dataclass
class Repair:
    """What was written where.

    Args:
        out: the new folder.
        targets: new path of every file that was written.
        repaired: {"file", "written", "done"} of every mended file.
        quarantine: {"section", "files", "reasons"} of every case left out.
        kept: cases that are in the new folder.
    """

    out: Path
    targets: dict[Path, Path] = field(default_factory=dict)
    repaired: list[dict[str, object]] = field(default_factory=list)
    quarantine: list[dict[str, object]] = field(default_factory=list)
    kept: list[Case] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        return {
            "output": str(self.out),
            "files": len(self.targets),
            "repaired": self.repaired,
            "quarantine": self.quarantine,
        }


def check_output(out: str | Path, root: Path) -> Path:
    """Return the absolute path of ``out``.

    Raises:
        InputError: if it lies in ``root``, is a file, or holds something.
    """
    path = Path(out).expanduser().absolute()
    if path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path}: lies inside the examined folder {root}; name a folder elsewhere for --repair.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is not an empty folder; name a new one for --repair.")
    return path


def repair(
    examination: Examination,
    out: Path,
    allow_empty: bool = False,
    progress: Callable[[Iterable[Case]], Iterable[Case]] = iter,
) -> Repair:
    """Write the mended copy to ``out`` (from `check_output`); the source is only read.

    A case is left out, and named in the quarantine, if one of its errors cannot be mended or if a mended file,
    read again, is still not right.
    """
    outcome = Repair(out)
    for case in progress(examination.folder.cases):
        found = examination.found[case]
        reasons = [one for one in found if one.is_error and (not one.repairable or one.code.startswith("duplicate"))]
        if reasons:
            _leave_out(outcome, examination.folder, case, [one.reason for one in reasons])
            continue
        _mend_case(outcome, examination.folder, case, found, allow_empty)
    for one in examination.loose:
        if one.code in ("unpaired_file", "unlisted_file"):
            outcome.quarantine.append({"section": "", "files": [one.file], "reasons": [one.reason]})
    _write_rest(outcome, examination.folder)
    return outcome


def _leave_out(outcome: Repair, folder: Folder, case: Case, reasons: list[str]) -> None:
    files = [folder.name_of(path) for path, _ in case.files]
    outcome.quarantine.append({"section": case.section, "files": files, "reasons": reasons})


def _mend_case(outcome: Repair, folder: Folder, case: Case, found: list[Finding], allow_empty: bool) -> None:
    before = dict(outcome.targets)
    try:
        mended = _write_case(outcome, folder, case, found)
        wrong = _read_again(outcome, folder, case, allow_empty) if mended else []
    except (CannotMend, Unreadable, OSError) as error:
        mended, wrong = [], [str(error)]
    if not wrong:
        outcome.repaired += mended
        outcome.kept.append(case)
        return
    for path in outcome.targets.keys() - before.keys():
        _remove(outcome.targets[path])
    outcome.targets = before
    _leave_out(outcome, folder, case, [f"the repair failed: {reason}" for reason in wrong])


def _write_case(outcome: Repair, folder: Folder, case: Case, found: list[Finding]) -> list[dict[str, object]]:
    """Write the files of a case, images first; return what was mended."""
    mended: list[dict[str, object]] = []
    for path, is_label in case.files:
        if path in outcome.targets:
            continue
        codes = {one.code for one in found if one.file == folder.name_of(path) and one.repairable}
        done: list[str] = []
        if codes or (is_label and mended):  # the place of the image may be another now
            scan = read_scan(path)
            done = mend_scan(scan, codes, is_label)
            done += [mend_grid(scan, _grid_of(outcome, case))] if is_label and case.images else []
        done = [text for text in done if text]
        outcome.targets[path] = target = _target(outcome, folder, path, is_label and bool(done))
        if not done:
            copy_scan(path, target)
            continue
        write_scan(scan, target)
        written = target.relative_to(outcome.out).as_posix()
        mended.append({"file": folder.name_of(path), "written": written, "done": done})
    return mended


def _grid_of(outcome: Repair, case: Case) -> Grid:
    image = read_scan(outcome.targets[case.images[0]])
    return Grid(image.path.name, image.grid, image.affine)


def _target(outcome: Repair, folder: Folder, path: Path, is_mended_label: bool) -> Path:
    if path.is_relative_to(folder.root):
        target = outcome.out / path.relative_to(folder.root)
    else:
        target = outcome.out / "outside" / str(len(outcome.targets)) / path.name
    if is_mended_label and target.suffix.lower() in (".jpg", ".jpeg"):
        target = target.with_suffix(".png")  # JPEG changes values
    return target


def _read_again(outcome: Repair, folder: Folder, case: Case, allow_empty: bool) -> list[str]:
    """Examine what was written; return the errors that are still there."""
    images = tuple(outcome.targets[image] for image in case.images)
    label = outcome.targets[case.label] if case.label else None
    written = replace(case, images=images, label=label)
    found = examine_case(written, replace(folder, root=outcome.out), allow_empty, {})
    return [f"{one.code}: {one.what}" for one in found if one.is_error]


def _remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def _write_rest(outcome: Repair, folder: Folder) -> None:
    """Write the data list with the new paths, and the texts beside it (licence, readme)."""
    outcome.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.root.iterdir()):
        if path.is_file() and (path.suffix.lower() in (".txt", ".md") or path.name.upper().startswith("LICEN")):
            shutil.copy2(path, outcome.out / path.name)
    if folder.datalist:
        kept = {(case.section, case.position) for case in outcome.kept}
        content = rewritten(
            folder.datalist, kept, lambda path: outcome.targets[path].relative_to(outcome.out).as_posix()
        )
        write_json(outcome.out / folder.datalist.file.name, content)
