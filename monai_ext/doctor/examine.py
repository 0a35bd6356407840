# SPDX-License-Identifier: Apache-2.0
"""Examine a folder: every file by itself, the files of a case with each other, the cases with each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .check_geometry import check_geometry
from .check_labels import check_label
from .check_pairs import Grid, check_channels, check_grids
from .check_splits import check_splits
from .check_voxels import check_voxels
from .finding import Finding, finding
from .folder import Case, Folder, exists
from .reading import read_scan
from .scan import Unreadable


@dataclass
class Record:
    """What is remembered of a file after its voxels are gone."""

    file: str
    findings: list[Finding] = field(default_factory=list)
    grid: Grid | None = None
    channels: int = 0
    digest: str = ""
    values: tuple[int, ...] = ()


@dataclass
class Examination:
    """The outcome.

    Args:
        folder: what was examined.
        found: findings of each case, in the order of ``folder.cases``.
        loose: findings that belong to no case.
        files: how many files were examined.
        values: label values seen anywhere.
    """

    folder: Folder
    found: dict[Case, list[Finding]]
    loose: list[Finding]
    files: int = 0
    values: tuple[int, ...] = ()

    @property
    def findings(self) -> list[Finding]:
        """All findings, a file's once even if two cases share it, sorted by file."""
        every = dict.fromkeys([*self.loose, *(one for found in self.found.values() for one in found)])
        return sorted(every, key=lambda one: (one.file, one.severity, one.code))

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self.findings if one.is_error]


Progress = Callable[[Iterable[Case]], Iterable[Case]]


def examine(folder: Folder, allow_empty: bool = False, progress: Progress = iter) -> Examination:
    """Examine every case of the folder; at most one file is in memory at a time.

    Args:
        folder: from `find_cases`.
        allow_empty: labels without foreground are intended.
        progress: wraps the iteration over the cases, e.g. in tqdm.
    """
    records: dict[tuple[Path, bool], Record] = {}
    found: dict[Case, list[Finding]] = {}
    for case in progress(folder.cases):
        found[case] = examine_case(case, folder, allow_empty, records)
    loose: list[Finding] = []
    for owner, one in folder.findings:
        (loose if owner is None else found[owner]).append(one)
    for case, one in [*_check_channels(folder, records), *check_splits(folder, _digests(folder, records))]:
        found[case].append(one)
    values = {value for record in records.values() for value in record.values}
    return Examination(folder, found, loose, len(records), tuple(sorted(values)))


def examine_case(
    case: Case, folder: Folder, allow_empty: bool, records: dict[tuple[Path, bool], Record]
) -> list[Finding]:
    """Examine the files of a case and how they fit; ``records`` keeps what is known of files seen before."""
    ours = []
    for path, is_label in case.files:
        if not exists(path):
            continue
        if (path, is_label) not in records:
            records[path, is_label] = _examine_file(path, is_label, folder, allow_empty)
        ours.append(((path, is_label), records[path, is_label]))
    found = [one for _, record in ours for one in record.findings]
    grids = [(is_label, record.grid) for (_, is_label), record in ours if record.grid]
    if grids and not grids[0][0]:
        reference = grids[0][1]
        found += [one for is_label, grid in grids[1:] for one in check_grids(reference, grid, is_label)]
    return list(dict.fromkeys(found))


def _examine_file(path: Path, is_label: bool, folder: Folder, allow_empty: bool) -> Record:
    record = Record(folder.name_of(path))
    try:
        scan = read_scan(path)
    except Unreadable as error:
        record.findings = [finding(error.code, record.file, error.what, remedy=error.remedy)]
        return record
    record.findings = check_voxels(scan, record.file, is_label)
    codes = {one.code for one in record.findings}
    hopeless = any(one.code == "wrong_dtype" and not one.repairable for one in record.findings)
    record.findings += check_geometry(scan, record.file)
    if is_label and scan.channels > 1 and not hopeless:  # the channels are equal
        scan.array, scan.channels = scan.array[..., 0], 1
    if is_label and not hopeless:
        found, record.values = check_label(scan, record.file, folder.classes, allow_empty)
        record.findings += found
    if "four_dimensional" not in codes or set(scan.series) == {1}:
        record.grid = Grid(record.file, scan.grid, scan.affine)
    record.channels = scan.channels
    if not is_label and "constant_image" not in codes:
        record.digest = digest_of(scan.array)
    return record


def digest_of(array: np.ndarray) -> str:
    """Return a hash of shape and voxels, whatever the header and the packing of the file."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for plane in array.T:  # volumes lie in memory with x fastest
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()


def _digests(folder: Folder, records: dict[tuple[Path, bool], Record]) -> dict[Case, str]:
    digests = {}
    for case in folder.cases:
        known = [records[image, False].digest for image in case.images if (image, False) in records]
        if known and all(known):
            digests[case] = " ".join(known)
    return digests


def _check_channels(folder: Folder, records: dict[tuple[Path, bool], Record]) -> list[tuple[Case, Finding]]:
    rows: list[tuple[str, int, int]] = []
    owners: dict[str, Case] = {}
    for case in folder.cases:
        known = [records[image, False] for image in case.images if (image, False) in records]
        if len(known) != len(case.images) or not known or not all(record.grid for record in known):
            continue
        dims = len(known[0].grid.shape) if known[0].grid else 0
        rows.append((known[0].file, dims, sum(record.channels for record in known)))
        owners.setdefault(known[0].file, case)
    return [(owners[one.file], one) for one in check_channels(rows)]
