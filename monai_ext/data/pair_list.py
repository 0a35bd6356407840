# SPDX-License-Identifier: Apache-2.0
"""Pairs of scans with points, to be matched and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_ext.data._pair_file import PAIR_LIST, listed_pairs, pair_file, read_pair_file
from monai_ext.data.scan_list import load_scan_list
from monai_ext.errors import InputError

SECTIONS = ("validation", "test", "inference")


def load_pair_list(
    dataset_dir: str | Path,
    section: str = "test",
    pairs: str | Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return pairs of scans for matching, or single scans of which pairs can be simulated.

    A list of pairs is a JSON file ``{"test": [{"fixed": path, "moving": path, "points": path}, ...]}`` with paths
    relative to its folder, and perhaps ``case``, ``subject`` and ``site``. ``points`` is a file that
    `monai_ext.data.read_points` or `read_point_pairs` knows; places in the moving scan are in the same table or in a
    second file ``truth``. It may have ``validation`` and ``inference``, too; without them ``inference`` is ``test``.

    Args:
        dataset_dir: such a file, a folder with ``pairs.json``, or scans as in `load_scan_list`.
        section: ``validation``, ``test`` or ``inference``.
        pairs: the file, where it is elsewhere; relative to the working folder.
        val_fraction: as in `load_scan_list`.
        seed: as in `load_scan_list`.

    Returns:
        Items with ``image`` (the moving scan), ``reference`` (the fixed one), ``points`` (path), perhaps ``truth``,
        and ``case``, ``subject``, ``site``. Without a list of pairs, or in a list without this section, the items of
        `load_scan_list`; inference needs pairs.

    Raises:
        InputError: files are missing, the list cannot be read, or nothing is found.

    Example:
        >>> load_pair_list("demo_data/pairs.json")[0]["case"]  # doctest: +SKIP
        'mild'
    """
    if section not in SECTIONS:
        raise ValueError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    file = pair_file(dataset_dir, pairs, SECTIONS)
    content = read_pair_file(file) if file is not None else {}
    found = content.get(section) or (content.get("test") if section == "inference" else None)
    if found and file is not None:
        return listed_pairs(found, file, section, ("fixed", "moving", "points"), ("truth",))
    if file is not None and section == "test":
        raise InputError(f"{file}: needs a list 'test' of items with 'fixed', 'moving' and 'points'.")
    if section == "inference":
        raise InputError(
            f"{dataset_dir}: no pairs to match; give a {PAIR_LIST} with a list 'test' of items with 'fixed', 'moving' "
            "and 'points', or use `python -m monai_ext match`."
        )
    return load_scan_list(dataset_dir, section, val_fraction, seed)
