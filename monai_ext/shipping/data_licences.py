# SPDX-License-Identifier: Apache-2.0
"""Under which licence the data of a run stand, as far as their list says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai_ext.shipping.commercial_use import commercial_use_of
from monai_ext.shipping.licence_entry import STRICTEST_FIRST, LicenceEntry

LISTS = ("datalist.json", "dataset.json")


def data_licences(dataset_dir: object, via: str) -> list[LicenceEntry]:
    """Return an entry for each licence that a data list names, for all its data or for single training items.

    ``licence`` (or ``license``) stands at the top of the list, as in the Medical Segmentation Decathlon's, or in an
    item of ``training``. ``commercial``, ``yes`` or ``no``, beside it says what the words alone do not. No path of the
    data is kept: only the list's ``name`` or the last part of the path.

    Args:
        dataset_dir: the run's knob: a folder or a data list.
        via: how the data came in.

    Returns:
        At least one entry: "unknown" if the data are not here, have no list, or the list or an item names no licence.

    Example:
        >>> data_licences("/nowhere/hearts", "eval/run.json: dataset_dir")[0].name
        'hearts'
    """
    path = Path(str(dataset_dir or "training data")).expanduser()
    content = _list_of(path)
    name = str(content.get("name") or path.name)
    top = _entry(content, name, via)
    items = [item for item in content.get("training") or [] if isinstance(item, dict)]
    own = [_entry(item, name, via) for item in items]
    found = list(dict.fromkeys(entry for entry in own if entry))
    if top is not None:
        return list(dict.fromkeys([top, *found]))
    if not own or None in own:
        found.append(LicenceEntry("data", name, "unknown", "unknown", via=via))
    return found


def _list_of(path: Path) -> dict[str, Any]:
    places = [path] if path.suffix.lower() == ".json" else [path / name for name in LISTS]
    file = next((place for place in places if place.is_file()), None)
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _entry(record: dict[str, Any], name: str, via: str) -> LicenceEntry | None:
    licence = record.get("licence") or record.get("license")
    if not licence:
        return None
    stated = record.get("commercial")
    commercial = stated if stated in STRICTEST_FIRST else commercial_use_of(str(licence))
    return LicenceEntry("data", name, str(licence), str(commercial), via=via)
