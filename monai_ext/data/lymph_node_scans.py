# SPDX-License-Identifier: Apache-2.0
"""The NIH lymph node CT collection, which anatomical embedding was published with, as it is distributed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from monai_ext.data._sections import SECTIONS, Item, existing, split_by_subject
from monai_ext.data.scan_list import load_scan_list
from monai_ext.errors import InputError
from monai_ext.scan_files import is_dicom_folder

PATIENT = re.compile(r"(ABD|MED)_LYMPH_\d+$", re.IGNORECASE)


def lymph_node_scans(
    dataset_dir: str | Path, section: str, val_fraction: float = 0.05, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the scans of the collection "CT Lymph Nodes" (https://doi.org/10.7937/K9/TCIA.2015.AQIIDCNM).

    Downloaded from the Cancer Imaging Archive, each of the 176 patients ``ABD_LYMPH_001``, ``MED_LYMPH_001``, ... is a
    folder with studies and series of DICOM files below it, at any depth. Of each patient the series with most files is
    taken: the others are segmentations. Any other folder is read as `load_scan_list` does, so the scans may have been
    converted to NIfTI.

    Args:
        dataset_dir: a folder that holds the patients' folders, at any depth.
        section: ``training``, ``validation``, ``test`` or ``inference``; the last two are ``validation``.
        val_fraction: share of the patients that validates.
        seed: of that choice.

    Raises:
        InputError: no scan is found.

    Example:
        >>> lymph_node_scans("/data/CT Lymph Nodes", "training")[0]["case"]  # doctest: +SKIP
        'ABD_LYMPH_001'
    """
    if section not in SECTIONS:
        raise ValueError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    root = existing(dataset_dir)
    patients = sorted(path for path in root.rglob("*") if path.is_dir() and PATIENT.match(path.name))
    if not patients:
        return load_scan_list(root, section, val_fraction, seed)
    items = [_item(patient) for patient in patients]
    training, validation = split_by_subject(items, root, val_fraction, seed)
    found = training if section == "training" else validation
    if not found:
        raise InputError(f"{root}: nothing in section {section!r} with val_fraction {val_fraction}; change it.")
    return found


def _item(patient: Path) -> Item:
    folders = [patient, *(path for path in sorted(patient.rglob("*")) if path.is_dir())]
    series = [folder for folder in folders if is_dicom_folder(folder)]
    if not series:
        raise InputError(f"{patient}: no DICOM files below it; is the download complete?")
    largest = max(series, key=lambda folder: sum(1 for _ in folder.iterdir()))
    return {"image": str(largest), "subject": patient.name, "site": "", "case": patient.name}
