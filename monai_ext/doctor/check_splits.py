# SPDX-License-Identifier: Apache-2.0
"""Checks across cases: no subject, file or content in two splits."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from .finding import Finding, finding
from .folder import Case, Folder

# what is kept when two splits share something: the test score must stay honest, training can spare a case
HELD_OUT = ("", "training", "validation", "test")


def check_splits(folder: Folder, digests: dict[Case, str]) -> list[tuple[Case, Finding]]:
    """Return a finding for each case that shares a subject, a file or its voxels with another one.

    Args:
        folder: the cases.
        digests: a hash of the voxels of the images of each case that could be read.
    """
    found: list[tuple[Case, Finding]] = []
    for group in _groups((case.subject, case) for case in folder.cases if case.subject):
        if len({case.section for case in group}) > 1:
            found += _leaks(folder, group, "duplicate_subject", f"subject {group[0].subject} is")
    reported = {id(case) for case, _ in found}
    for group in _groups((image, case) for case in folder.cases for image in case.images):
        found += _duplicates(folder, group, "the same file is", reported)
    reported |= {id(case) for case, _ in found}
    for group in _groups((digest, case) for case, digest in digests.items()):
        found += _duplicates(folder, group, "a file with the same voxels is", reported)
    return found


def _groups(pairs: Iterable[tuple[Hashable, Case]]) -> list[list[Case]]:
    groups: dict[Hashable, list[Case]] = {}
    for key, case in pairs:
        groups.setdefault(key, []).append(case)
    return [group for group in groups.values() if len(group) > 1]


def _leaks(folder: Folder, group: list[Case], code: str, what: str) -> list[tuple[Case, Finding]]:
    kept = max(group, key=lambda case: HELD_OUT.index(case.section))
    repair = f"keep it in {kept.section}, leave it out here"
    return [
        (
            case,
            finding(
                code, _name(folder, case), f"{what} in {case.section} and in {_place(folder, kept)}", repair=repair
            ),
        )
        for case in group
        if case.section != kept.section
    ]


def _duplicates(folder: Folder, group: list[Case], what: str, reported: set[int]) -> list[tuple[Case, Finding]]:
    """Report a leak between splits once, under the first of subject, file and voxels that shows it."""
    if len({case.section for case in group}) > 1:
        leaks = _leaks(folder, group, "duplicate_content", what)
        return [(case, found) for case, found in leaks if id(case) not in reported]
    first = group[0]
    files = {case: _name(folder, case) for case in group}
    return [
        (case, finding("duplicate_content", files[case], f"{what} also {_place(folder, first)}", severity="warning"))
        for case in group[1:]
        if id(case) not in reported
    ]


def _name(folder: Folder, case: Case) -> str:
    return folder.name_of(case.images[0])


def _place(folder: Folder, case: Case) -> str:
    return f"{case.section} ({_name(folder, case)})" if case.section else _name(folder, case)
