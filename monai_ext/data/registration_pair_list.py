# SPDX-License-Identifier: Apache-2.0
"""Pairs of scans to be registered, or scans of which pairs can be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_ext.data._pair_file import PAIR_LIST, listed_pairs, pair_file, read_pair_file
from monai_ext.data._sections import by_stem, existing, list_file, read_sections
from monai_ext.data.scan_list import load_scan_list
from monai_ext.errors import InputError
from monai_ext.scan_files import stem_of

SECTIONS = ("training", "validation", "test", "inference")
WANTED = ("fixed", "moving")
KNOWN = ("fixed_label", "moving_label", "points", "truth")


def load_registration_pairs(
    dataset_dir: str | Path,
    section: str = "training",
    pairs: str | Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return pairs of scans for registration, or single scans of which pairs are drawn or simulated.

    A list of pairs is that of `monai_ext.data.load_pair_list`, which matching takes as well; ``points`` may be missing,
    and ``fixed_label`` and ``moving_label`` are files of labels. It may have ``training``, too.

    Args:
        dataset_dir: such a file, a folder with ``pairs.json``, or scans as in `load_scan_list`, maybe with labels as
            in `load_datalist`.
        section: ``training``, ``validation``, ``test`` or ``inference``.
        pairs: the file, where it is elsewhere; relative to the working folder.
        val_fraction: as in `load_scan_list`.
        seed: as in `load_scan_list`.

    Returns:
        Pairs with ``image`` (the moving scan) and ``reference`` (the fixed one), perhaps ``image_label``,
        ``reference_label``, ``points`` and ``truth``, all paths; or, without a list of pairs, or in a list without this
        section, scans with ``image`` and perhaps ``label``. All have ``case``, ``subject`` and ``site``. Inference
        needs pairs.

    Raises:
        InputError: files are missing, the list cannot be read, or nothing is found.

    Example:
        >>> load_registration_pairs("demo_data/pairs.json", "test")[0]["case"]  # doctest: +SKIP
        'mild'
    """
    if section not in SECTIONS:
        raise ValueError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    file = pair_file(dataset_dir, pairs, SECTIONS)
    content = read_pair_file(file) if file is not None else {}
    found = content.get(section) or (content.get("test") if section == "inference" else None)
    if found and file is not None:
        return listed_pairs(found, file, section, WANTED, KNOWN)
    if section == "inference":
        raise InputError(
            f"{dataset_dir}: no pairs to register; give a {PAIR_LIST} with a list 'test' of items with 'fixed' and "
            "'moving', or use `python -m monai_ext register`."
        )
    return _with_labels(load_scan_list(dataset_dir, section, val_fraction, seed), existing(dataset_dir))


def _with_labels(items: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Give scans the labels that the data set has of them."""
    if list_file(path):
        listed = [item for section in read_sections(path).values() for item in section]
        labels = {str(item["image"]): item["label"] for item in listed if "label" in item}
    elif (path / "labels").is_dir() and (path / "images").is_dir():
        named = by_stem(path / "labels")
        labels = {str(item["image"]): str(named[stem]) for item in items if (stem := _stem(item)) in named}
    else:
        return items
    wrong = [label for label in labels.values() if not Path(label).exists()]
    if wrong:
        raise InputError(f"{wrong[0]}: the label is missing; mend its path in {list_file(path) or path}.")
    return [{**item, "label": labels[str(item["image"])]} if str(item["image"]) in labels else item for item in items]


def _stem(item: dict[str, Any]) -> str:
    return stem_of(item["image"]) if isinstance(item["image"], str) else ""
