# SPDX-License-Identifier: Apache-2.0
"""The file ``pairs.json``: where it is, what it holds, and what each of its pairs is called."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.data._sections import existing, some
from monai_ext.errors import InputError
from monai_ext.scan_files import stem_of

PAIR_LIST = "pairs.json"
NAMES = {"fixed": "reference", "moving": "image", "fixed_label": "reference_label", "moving_label": "image_label"}
Item = dict[str, Any]


def pair_file(dataset_dir: str | Path, pairs: str | Path | None, sections: Sequence[str]) -> Path | None:
    """Return the list of pairs that was named or that a data set has; another list of scans is none."""
    if pairs:
        return existing(pairs)
    path = existing(dataset_dir)
    if path.is_dir():
        return path / PAIR_LIST if (path / PAIR_LIST).is_file() else None
    if path.suffix.lower() != ".json":
        return None
    entries = [entry for section in sections for entry in read_pair_file(path).get(section) or []]
    return path if any(isinstance(entry, dict) and "fixed" in entry for entry in entries) else None


def read_pair_file(file: Path) -> dict[str, Any]:
    """Return the content of a list of pairs.

    Raises:
        InputError: it is no JSON file with lists in it.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: not a JSON file ({error}); mend it or name another.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: needs a list 'test' of items with 'fixed', 'moving' and 'points'.")
    return content


def listed_pairs(
    entries: Sequence[object], file: Path, section: str, wanted: Sequence[str], known: Sequence[str]
) -> list[Item]:
    """Return the pairs of a section with absolute paths, ``image`` (moving) and ``reference`` (fixed).

    Args:
        entries: as they stand in the file.
        file: relative to whose folder the paths are.
        section: for messages.
        wanted: entries of a pair that are paths and must be there.
        known: entries that are paths where they are there.

    Raises:
        InputError: a pair lacks something, its files are missing, or two have one name.
    """
    return _named([_item(entry, file, section, wanted, known) for entry in entries], file)


def _item(entry: object, file: Path, section: str, wanted: Sequence[str], known: Sequence[str]) -> Item:
    if not isinstance(entry, dict) or any(not isinstance(entry.get(key), str) for key in wanted):
        *most, last = (f"{key!r}" for key in wanted)
        raise InputError(f"{file}: an item of {section!r} needs paths {', '.join(most)} and {last}, got {entry!r}.")
    paths = {key: file.parent / entry[key] for key in (*wanted, *known) if entry.get(key)}
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing:
        raise InputError(f"{file}: files are missing: {some(missing)}; mend their paths.")
    rest = {key: value for key, value in entry.items() if key not in paths}
    return {**rest, **{NAMES.get(key, key): str(path) for key, path in paths.items()}}


def _named(items: list[Item], file: Path) -> list[Item]:
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
