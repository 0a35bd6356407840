# SPDX-License-Identifier: Apache-2.0
"""Scans to learn from without labels, and pairs of scans with corresponding points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_ext.data._sections import (
    SECTIONS,
    Item,
    check_files,
    complete_items,
    existing,
    formats,
    list_file,
    read_sections,
    training_and_validation,
)
from monai_ext.errors import InputError
from monai_ext.scan_files import is_dicom_folder, list_scans

FOLDERS = ("images", "imagesTr")


def load_scan_list(
    dataset_dir: str | Path, section: str, val_fraction: float = 0.2, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the scans of one section of a data set that needs no labels.

    ``dataset_dir`` is one of

    - a folder with ``datalist.json`` or ``dataset.json``, or such a file: lists ``training``, ``validation`` and
      ``test`` of ``{"image": path or list of paths, "body": mask, "subject": ..., "site": ...}`` or of bare paths,
      relative to the file's folder; labels are not looked at;
    - a folder with ``images/`` (or ``imagesTr/``), or any folder of scans; a scan may be a sub-folder with a DICOM
      series.

    Without a list ``validation``, a fixed share of the *subjects* validates, as in `load_datalist`; a single scan
    trains and validates, which says how well places of this one are found again. Without ``test``, that is
    ``validation``; ``inference`` is the same as ``test``.

    Args:
        dataset_dir: the data set.
        section: ``training``, ``validation``, ``test`` or ``inference``.
        val_fraction: share of the subjects that validates where the data set does not say.
        seed: of that choice.

    Returns:
        Items with ``image`` (absolute path or list of them), perhaps ``body``, ``subject``, ``site`` and ``case``.

    Raises:
        InputError: files are missing, the list cannot be read, or nothing is found.

    Example:
        >>> load_scan_list("/data/chests", "training")[0]  # doctest: +SKIP
        {'subject': 'a', 'site': '', 'case': 'a', 'image': '/data/chests/images/a.nii.gz'}
    """
    if section not in SECTIONS:
        raise ValueError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    path = existing(dataset_dir)
    sections = read_sections(path) if list_file(path) else _sections_of_folder(path)
    items = _section(sections, section, path, val_fraction, seed)
    if not items:
        raise InputError(f"{path}: nothing in section {section!r}; list some scans there.")
    items = [_without_label(item, path) for item in items]
    check_files(items, path)
    return items


def _section(sections: dict[str, list[Item]], section: str, path: Path, fraction: float, seed: int) -> list[Item]:
    if section in ("test", "inference") and sections["test"]:
        return sections["test"]
    subjects = {item["subject"] for item in sections["training"]}
    if len(subjects) == 1 and not sections["validation"]:
        return sections["training"]
    training, validation = training_and_validation(sections, path, fraction, seed)
    return training if section == "training" else validation


def _sections_of_folder(path: Path) -> dict[str, list[Item]]:
    if path.is_file() or is_dicom_folder(path):
        scans, root = [path], path.parent
    else:
        root = next((path / name for name in FOLDERS if (path / name).is_dir()), path)
        scans = list_scans(root)
    if not scans:
        raise InputError(f"{root}: no scan here; looked for {formats()}.")
    items = complete_items([{"image": str(scan)} for scan in scans], root)
    return {"training": items, "validation": [], "test": []}


def _without_label(item: Item, path: Path) -> Item:
    kept = {key: value for key, value in item.items() if key != "label"}
    if "body" in kept:
        origin = list_file(path) or path
        kept["body"] = str(origin.parent / kept["body"])
        if not Path(kept["body"]).exists():
            raise InputError(f"{kept['body']}: the body mask is missing; mend its path in {origin}.")
    return kept
