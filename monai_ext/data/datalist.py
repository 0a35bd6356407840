# SPDX-License-Identifier: Apache-2.0
"""From a folder or a data list file to the items of one section."""

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
    labelled_section,
    list_file,
    read_sections,
)
from monai_ext.errors import InputError
from monai_ext.scan_files import is_dicom_folder, list_scans


def load_datalist(
    dataset_dir: str | Path, section: str, val_fraction: float = 0.2, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the items of one section of a data set.

    ``dataset_dir`` is one of

    - a folder with ``datalist.json`` or ``dataset.json``, or such a file: lists ``training``, ``validation`` and
      ``test`` of ``{"image": path or list of paths, "label": path, "subject": ..., "site": ...}``, paths relative
      to the file's folder;
    - a folder with ``images/`` and ``labels/`` (and perhaps ``images_test/`` and ``labels_test/``), paired by file
      name; a scan may be a sub-folder with a DICOM series;
    - for ``inference`` alone: any folder of scans, one scan, or the folder of a DICOM series.

    Without a list ``validation``, a fixed share of the *subjects* is taken from training, chosen by a hash of seed
    and name, so that it depends neither on the order nor on the machine. Without labelled items in ``test``,
    ``test`` is ``validation``. ``inference`` needs no labels: it is the images of ``test`` (labelled or not) or,
    without one, of ``validation`` in a data list; the folder ``images_test/`` or, without one, ``images/``.

    Args:
        dataset_dir: the data set.
        section: ``training``, ``validation``, ``test`` or ``inference``.
        val_fraction: share of the subjects that validates where the data set does not say.
        seed: of that choice.

    Returns:
        Items with ``image`` (absolute path or list of them), ``label`` if there is one, ``subject``, ``site``
        (empty if unknown) and ``case``, a name that is unique in the data set and fit for a file.

    Raises:
        InputError: if files are missing or unpaired, the list cannot be read, or nothing is found.

    Example:
        >>> load_datalist("/data/hearts", "training")  # doctest: +SKIP
        [{'image': '/data/hearts/images/a.nii.gz', 'label': ..., 'subject': 'a', 'site': '', 'case': 'a'}]
    """
    if section not in SECTIONS:
        raise ValueError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    path = existing(dataset_dir)
    if section == "inference":
        items = _inference_items(path, val_fraction, seed)
    else:
        items = labelled_section(read_sections(path), section, path, val_fraction, seed)
    check_files(items, path)
    return items


def _inference_items(path: Path, val_fraction: float, seed: int) -> list[Item]:
    if list_file(path):
        sections = read_sections(path)
        return sections["test"] or labelled_section(sections, "validation", path, val_fraction, seed)
    if path.is_file() or is_dicom_folder(path):
        scans, root = [path], path.parent
    else:
        root = next((path / name for name in ("images_test", "images") if (path / name).is_dir()), path)
        scans = list_scans(root)
    if not scans:
        raise InputError(f"{root}: no scan here; looked for {formats()}.")
    return complete_items([{"image": str(scan)} for scan in scans], root)
