# SPDX-License-Identifier: Apache-2.0
"""The lists of a data set, read from its file or folders, and who of its training validates."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.scan_files import SCAN_SUFFIXES, list_scans, stem_of

SECTIONS = ("training", "validation", "test", "inference")
LISTS = ("datalist.json", "dataset.json")
Item = dict[str, Any]


def existing(dataset_dir: str | Path) -> Path:
    """Return the absolute path of a data set that is there."""
    path = Path(dataset_dir).expanduser().absolute()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; set dataset_dir to your data.")
    return path


def labelled_section(
    sections: dict[str, list[Item]], section: str, path: Path, fraction: float, seed: int
) -> list[Item]:
    """Return the items of a section that has labels, ``test`` falling back on ``validation``."""
    test = [item for item in sections["test"] if "label" in item]
    if section == "test" and test:
        return test
    training, validation = training_and_validation(sections, path, fraction, seed)
    items = training if section == "training" else validation
    if not items:
        raise InputError(f"{path}: nothing in section {section!r}; list some items there.")
    return items


def training_and_validation(
    sections: dict[str, list[Item]], origin: Path | str, fraction: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Return what trains and what validates: the two lists, or a share of training where there is no second one."""
    training, validation = sections["training"], sections["validation"]
    return (training, validation) if validation else split_by_subject(training, origin, fraction, seed)


def split_by_subject(
    items: list[Item], origin: Path | str, fraction: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Split by subject, so that no person is on both sides; ``origin`` begins the message of an error."""
    if not 0 <= fraction < 1:
        raise InputError(f"val_fraction must be in [0, 1), got {fraction}.")
    subjects = sorted({item["subject"] for item in items}, key=lambda name: _hash(f"{seed}:{name}"))
    if fraction and len(subjects) < 2:
        raise InputError(
            f"{origin}: {len(subjects)} subject in training and no list 'validation'; add subjects, or list both parts "
            "in a datalist.json."
        )
    count = min(max(1, round(len(subjects) * fraction)), len(subjects) - 1) if fraction else 0
    chosen = set(subjects[:count])
    kept = [item for item in items if item["subject"] not in chosen]
    return kept, [item for item in items if item["subject"] in chosen]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def list_file(path: Path) -> Path | None:
    """Return the data list of a data set, None where folders are all there is."""
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    return next((path / name for name in LISTS if (path / name).is_file()), None)


def read_sections(path: Path) -> dict[str, list[Item]]:
    """Return the lists training, validation and test, each item complete."""
    file = list_file(path)
    return _sections_of_file(file) if file else _sections_of_folder(path)


def _sections_of_file(file: Path) -> dict[str, list[Item]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: not a JSON file ({error}); mend it or name another.") from error
    if not isinstance(content, dict) or not any(content.get(name) for name in SECTIONS[:3]):
        raise InputError(f"{file}: needs a list 'training', 'validation' or 'test' of items with an 'image'.")
    found = {name: [_listed_item(entry, file, name) for entry in content.get(name) or []] for name in SECTIONS[:3]}
    return _complete_sections(found, file.parent)


def _listed_item(entry: object, file: Path, section: str) -> Item:
    item = {"image": entry} if isinstance(entry, str) else entry
    if not isinstance(item, dict) or not item.get("image"):
        raise InputError(f"{file}: an item of {section!r} has no 'image': {entry!r}.")
    item = {key: value for key, value in item.items() if value is not None}
    return {**item, **{key: _resolve(item[key], file) for key in ("image", "label") if key in item}}


def _resolve(value: object, file: Path) -> str | list[str]:
    if isinstance(value, list) and value and all(isinstance(path, str) for path in value):
        return [str(file.parent / path) for path in value]
    if not isinstance(value, str):
        raise InputError(f"{file}: a path, or a list of paths to stack, is wanted; got {value!r}.")
    return str(file.parent / value)


def _sections_of_folder(folder: Path) -> dict[str, list[Item]]:
    training = _pairs(folder / "images", folder / "labels")
    has_test = (folder / "images_test").is_dir() and (folder / "labels_test").is_dir()
    test = _pairs(folder / "images_test", folder / "labels_test") if has_test else []
    return _complete_sections({"training": training, "validation": [], "test": test}, folder)


def _pairs(images: Path, labels: Path) -> list[Item]:
    if not images.is_dir() or not labels.is_dir():
        raise InputError(
            f"{images.parent}: looked for {' or '.join(LISTS)}, or the folders {images.name}/ and {labels.name}/ "
            "with files of the same names; found neither."
        )
    image_of, label_of = by_stem(images), by_stem(labels)
    if not image_of and not label_of:
        raise InputError(f"{images}: no scan here; looked for {formats()}.")
    lonely = [image_of[stem] for stem in image_of.keys() - label_of.keys()]
    lonely += [label_of[stem] for stem in label_of.keys() - image_of.keys()]
    if lonely:
        raise InputError(
            f"{images.parent}: {len(lonely)} files without a partner of the same name in {images.name}/ and "
            f"{labels.name}/: {some(f'{path.parent.name}/{path.name}' for path in sorted(lonely))}; "
            "rename or remove them."
        )
    return [{"image": str(image_of[stem]), "label": str(label_of[stem])} for stem in sorted(image_of)]


def by_stem(folder: Path) -> dict[str, Path]:
    """Return the scans of a folder by their names without suffix."""
    scans = list_scans(folder)
    count = Counter(stem_of(scan) for scan in scans)
    twice = [scan.name for scan in scans if count[stem_of(scan)] > 1]
    if twice:
        raise InputError(f"{folder}: files with the same name and another suffix: {some(twice)}; keep one of each.")
    return {stem_of(scan): scan for scan in scans}


def _complete_sections(sections: dict[str, list[Item]], root: Path) -> dict[str, list[Item]]:
    """Name the cases of all sections together, so that no two of them share a name."""
    complete = iter(complete_items([item for items in sections.values() for item in items], root))
    return {name: [next(complete) for _ in items] for name, items in sections.items()}


def complete_items(items: list[Item], root: Path) -> list[Item]:
    """Give each item a case name of its own, and a subject and site where it has none."""
    names = _case_names([paths_of(item["image"])[0] for item in items], root)
    defaults = [{"subject": name, "site": "", "case": name} for name in names]
    return [
        {
            **default,
            **item,
            "case": default["case"],
            **{key: str(item[key]) for key in ("subject", "site") if key in item},
        }
        for default, item in zip(defaults, items, strict=True)
    ]


def _case_names(paths: list[str], root: Path) -> list[str]:
    """Use the stem where it is unique, else the path below the root, and as the last resort a number."""
    count = Counter(stem_of(path) for path in paths)
    taken: set[str] = set()
    last: Counter[str] = Counter()  # number that a name got last; to try them all again would take for ever
    names = []
    for path in paths:
        folders = (
            Path(path).parent.parts[len(root.parts) :] if Path(path).is_relative_to(root) else Path(path).parts[-2:-1]
        )
        parts = [stem_of(path)] if count[stem_of(path)] == 1 else [*folders, stem_of(path)]
        name = unique = re.sub(r"[^\w.-]+", "_", "_".join(parts)).strip("_.") or "case"
        while unique in taken:
            last[name] = max(last[name], 1) + 1
            unique = f"{name}-{last[name]}"
        taken.add(unique)
        names.append(unique)
    return names


def check_files(items: list[Item], path: Path) -> None:
    """Refuse items whose files are missing."""
    named = [file for item in items for key in ("image", "label") for file in paths_of(item.get(key, []))]
    missing = [file for file in named if not Path(file).exists()]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(named)} files are missing: {some(missing)}; mend their paths."
        )


def paths_of(value: str | list[str]) -> list[str]:
    """Return one path or several as a list."""
    return [value] if isinstance(value, str) else list(value)


def some(names: Iterable[str], limit: int = 5) -> str:
    """Return the first names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")


def formats() -> str:
    """Return what counts as a scan, for a message."""
    return f"{' '.join(SCAN_SUFFIXES)} files and folders of DICOM files"
