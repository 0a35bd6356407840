# SPDX-License-Identifier: Apache-2.0
"""Read a data list as it is, broken parts named instead of raised, and write one with other paths."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LISTS = ("datalist.json", "dataset.json")
SECTIONS = ("training", "validation", "test")


@dataclass(frozen=True)
class Datalist:
    """The content of a data list whose sections are lists of items with an image.

    Args:
        file: where it was read.
        content: the JSON object; broken items are None.
        classes: label values of its "labels", None without.
    """

    file: Path
    content: dict[str, Any]
    classes: frozenset[int] | None


def read_datalist(file: Path) -> tuple[Datalist | None, list[str]]:
    """Return the list (None if it is none) and what is wrong with it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return None, [f"not JSON: {str(error)[:120]}" if file.stat().st_size else "the file has 0 bytes"]
    if not isinstance(content, dict):
        return None, [f"holds a {type(content).__name__}, not an object"]
    wrong: list[str] = []
    for section in SECTIONS:
        content[section] = _checked_items(content.get(section, []), section, wrong)
    if not wrong and not any(content[section] for section in SECTIONS):
        wrong.append(f"has none of {', '.join(SECTIONS)}")
    classes = _classes_of(content.get("labels"), wrong)
    return Datalist(file, content, classes), wrong


def items_of(datalist: Datalist) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Give (section, position, item) of every item that is one."""
    for section in SECTIONS:
        for position, item in enumerate(datalist.content[section]):
            if item is not None:
                yield section, position, item


def item_paths(item: dict[str, Any], root: Path) -> tuple[tuple[Path, ...], Path | None]:
    """Return the absolute paths of an item's images and label."""
    images = item["image"] if isinstance(item["image"], list) else [item["image"]]
    label = item.get("label")
    return tuple(_absolute(root, image) for image in images), _absolute(root, label) if label else None


def rewritten(datalist: Datalist, kept: set[tuple[str, int]], rename: Callable[[Path], str]) -> dict[str, Any]:
    """Return the content with the items of ``kept`` (section, position) alone and every path through ``rename``."""
    content = dict(datalist.content)
    root = datalist.file.parent
    for section in SECTIONS:
        content.pop(section)
        items = [item for part, position, item in items_of(datalist) if part == section and (part, position) in kept]
        if items or datalist.content[section]:
            content[section] = [_renamed(item, root, rename) for item in items]
    for count, section in (("numTraining", "training"), ("numTest", "test")):
        if count in content:
            content[count] = len(content.get(section, []))
    return content


def _renamed(item: dict[str, Any], root: Path, rename: Callable[[Path], str]) -> dict[str, Any]:
    images, label = item_paths(item, root)
    names = [rename(image) for image in images]
    new = {**item, "image": names if isinstance(item["image"], list) else names[0]}
    if label:
        new["label"] = rename(label)
    return new


def _absolute(root: Path, text: str) -> Path:
    # no resolve(): a link keeps the name by which the user knows the file
    parts: list[str] = []
    for part in (root / text).parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != "..":
            parts.append(part)
    return Path(*parts)


def _checked_items(items: object, section: str, wrong: list[str]) -> list[dict[str, Any] | None]:
    if items is None:
        return []
    if not isinstance(items, list):
        wrong.append(f'"{section}" is a {type(items).__name__}, not a list')
        return []
    checked: list[dict[str, Any] | None] = []
    for position, item in enumerate(items):
        item = {"image": item} if isinstance(item, str) else item  # Decathlon lists its test images so
        complaint = _complaint(item)
        if complaint:
            wrong.append(f"{section}[{position}] {complaint}")
        checked.append(None if complaint else item)
    return checked


def _complaint(item: object) -> str:
    if not isinstance(item, dict):
        return f"is a {type(item).__name__}, not an object"
    image, label = item.get("image"), item.get("label")
    names = image if isinstance(image, list) else [image]
    if not names or not all(isinstance(name, str) and name for name in names):
        return 'has no "image" (a path, or a list of paths)'
    if label is not None and not isinstance(label, str):
        return f'has a "label" that is a {type(label).__name__}, not a path'
    return ""


def _classes_of(labels: object, wrong: list[str]) -> frozenset[int] | None:
    """Understand {"0": "background"} (Decathlon), {"background": 0} (nnU-Net) and a list of names."""
    if not labels:
        return None
    if isinstance(labels, list):
        return frozenset(range(len(labels)))
    if isinstance(labels, dict):
        for numbers in (labels.keys(), labels.values()):
            try:
                return frozenset(int(number) for number in numbers) | {0}
            except (TypeError, ValueError, OverflowError):
                continue
    wrong.append('"labels" must be {"0": "background", "1": "name", ...}')
    return None
