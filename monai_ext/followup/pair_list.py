# SPDX-License-Identifier: Apache-2.0
"""A list of pairs of scans whose points are to be matched."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from monai_ext.errors import InputError
from monai_ext.followup.match_table import check_match_path

COLUMNS = ("fixed", "moving", "points", "output")
REPORT = "report"


@dataclass(frozen=True)
class ScanPair:
    """Two scans, the points of one of them, and where what is found in the other is to be written.

    Args:
        fixed: the scan in which the points are.
        moving: the scan in which to look for them.
        points: their file.
        output: the file to write.
        report: a page to write, too.
    """

    fixed: Path
    moving: Path
    points: Path
    output: Path
    report: Path | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """What is read."""
        return (self.fixed, self.moving, self.points)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """What is written."""
        return (self.output,) if self.report is None else (self.output, self.report)


def read_pair_list(path: str | Path) -> list[ScanPair]:
    """Return the pairs of a CSV file with the columns `COLUMNS` and maybe `REPORT`; paths are relative to the file.

    Raises:
        InputError: it cannot be read, has not these columns, has no rows, a row lacks a path, or two rows, or a row and
            an input of any other, name the same file to write.
    """
    path = Path(path)
    rows = _read(path)
    pairs = [_pair(row, number, path) for number, row in enumerate(rows, start=1)]
    check_outputs(pairs, further=[path, record_of(path)])
    return pairs


def check_outputs(pairs: Iterable[ScanPair], further: Iterable[Path] = ()) -> None:
    """Refuse pairs that would overwrite what they read, or each other's results.

    Args:
        pairs: all that will be written in one go.
        further: other files that must stay as they are.

    Raises:
        InputError: naming the file.
    """
    pairs = list(pairs)
    inputs = {_identity(path): path for pair in pairs for path in pair.inputs}
    inputs |= {_identity(path): path for path in further}
    written: set[str] = set()
    for pair in pairs:
        check_match_path(pair.output)
        for path in pair.outputs:
            identity = _identity(path)
            if path.is_dir():
                raise InputError(f"{path}: must be a file, there is a folder of this name; choose another.")
            if identity in inputs:
                raise InputError(f"{path}: would overwrite the input {inputs[identity]}; name another output.")
            if identity in written:
                raise InputError(f"{path}: would be written twice; give each pair an output of its own.")
            written.add(identity)


def record_of(path: Path) -> Path:
    """Return the file beside a list in which `PairRecord` keeps what is done."""
    return path.with_name(f"{path.name}.record.jsonl")


def is_same_file(one: Path, other: Path) -> bool:
    """Say whether two paths lead to one file, which need not be there yet."""
    return _identity(one) == _identity(other)


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, restkey="", restval="")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); it must be a CSV with {', '.join(COLUMNS)}.") from error
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; its header must have {', '.join(COLUMNS)}.")
    if not rows:
        raise InputError(f"{path}: has no rows; add a pair of scans.")
    return rows


def _pair(row: Mapping[str, str], number: int, path: Path) -> ScanPair:
    for column in COLUMNS:
        if not row[column].strip():
            raise InputError(f"{path}: row {number} has no {column}; name a file.")
    # relative to the list, wherever the command is run
    fixed, moving, points, output = (path.parent / Path(row[column].strip()).expanduser() for column in COLUMNS)
    report = (row.get(REPORT) or "").strip()
    return ScanPair(fixed, moving, points, output, path.parent / Path(report).expanduser() if report else None)


def _identity(path: Path) -> str:
    """Return what two paths of one file have in common, links included."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return f"{status.st_dev}:{status.st_ino}"
