# SPDX-License-Identifier: Apache-2.0
"""Pairs of scans with points, to be matched and scored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from monai_ext.data._sections import existing, some
from monai_ext.data.scan_list import load_scan_list
from monai_ext.errors import InputError
from monai_ext.scan_files import stem_of

PAIR_LIST = "pairs.json"
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
    file = existing(pairs) if pairs else _list_in(existing(dataset_dir))
    content = _read(file) if file is not None else {}
    found = content.get(section) or (content.get("test") if section == "inference" else None)
    if found and file is not None:
        return _complete([_item(entry, file, section) for entry in found], file)
    if file is not None and section == "test":
        raise InputError(f"{file}: needs a list 'test' of items with 'fixed', 'moving' and 'points'.")
    if section == "inference":
        raise InputError(
            f"{dataset_dir}: no pairs to match; give a {PAIR_LIST} with a list 'test' of items with 'fixed', 'moving' "
            "and 'points', or use `python -m monai_ext match`."
        )
    return load_scan_list(dataset_dir, section, val_fraction, seed)


def _list_in(path: Path) -> Path | None:
    """Return the list of pairs that a data set has; another list of scans is none."""
    if path.is_dir():
        return path / PAIR_LIST if (path / PAIR_LIST).is_file() else None
    if path.suffix.lower() != ".json":
        return None
    entries = [entry for section in SECTIONS for entry in _read(path).get(section) or []]
    return path if any(isinstance(entry, dict) and "fixed" in entry for entry in entries) else None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: not a JSON file ({error}); mend it or name another.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: needs a list 'test' of items with 'fixed', 'moving' and 'points'.")
    return content


def _item(entry: object, file: Path, section: str) -> dict[str, Any]:
    wanted = ("fixed", "moving", "points")
    if not isinstance(entry, dict) or any(not isinstance(entry.get(key), str) for key in wanted):
        raise InputError(f"{file}: an item of {section!r} needs paths 'fixed', 'moving' and 'points', got {entry!r}.")
    paths = {key: file.parent / entry[key] for key in (*wanted, "truth") if key in entry}
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing:
        raise InputError(f"{file}: files are missing: {some(missing)}; mend their paths.")
    names = {"fixed": "reference", "moving": "image"}
    rest = {key: value for key, value in entry.items() if key not in paths}
    return {**rest, **{names.get(key, key): str(path) for key, path in paths.items()}}


def _complete(items: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Give each pair a name of its own, fit for a file, and a subject and site where it has none."""
    names: list[str] = []
    for item in items:
        told = str(item.get("case") or f"{stem_of(item['reference'])}_to_{stem_of(item['image'])}")
        base = name = re.sub(r"[^\w.-]+", "_", told).strip("_.") or "pair"
        number = 1
        while name in names:
            if "case" in item:
                raise InputError(f"{file}: two items are called {base!r}; give each pair a 'case' of its own.")
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return [
        {**item, "case": name, "subject": str(item.get("subject") or name), "site": str(item.get("site") or "")}
        for item, name in zip(items, names, strict=True)
    ]
