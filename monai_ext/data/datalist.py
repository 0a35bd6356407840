# SPDX-License-Identifier: Apache-2.0
"""From a folder or a data list file to the items of one section."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.scan_files import SCAN_SUFFIXES, is_dicom_folder, list_scans, stem_of

SECTIONS = ("training", "validation", "test", "inference")
LISTS = ("datalist.json", "dataset.json")
Item = dict[str, Any]


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
    path = Path(dataset_dir).expanduser().absolute()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; set dataset_dir to your data.")
    if section == "inference":
        items = _inference_items(path, val_fraction, seed)
    else:
        items = _labelled_section(_read_sections(path), section, path, val_fraction, seed)
    _check_files(items, path)
    return items


def _inference_items(path: Path, val_fraction: float, seed: int) -> list[Item]:
    if _list_file(path):
        sections = _read_sections(path)
        return sections["test"] or _labelled_section(sections, "validation", path, val_fraction, seed)
    if path.is_file() or is_dicom_folder(path):
        scans, root = [path], path.parent
    else:
        root = next((path / name for name in ("images_test", "images") if (path / name).is_dir()), path)
        scans = list_scans(root)
    if not scans:
        raise InputError(f"{root}: no scan here; looked for {_formats()}.")
    return _complete([{"image": str(scan)} for scan in scans], root)


def _labelled_section(
    sections: dict[str, list[Item]], section: str, path: Path, fraction: float, seed: int
) -> list[Item]:
    test = [item for item in sections["test"] if "label" in item]
    if section == "test" and test:
        return test
    training, validation = sections["training"], sections["validation"]
    if not validation:
        training, validation = _split(training, path, fraction, seed)
    items = training if section == "training" else validation
    if not items:
        raise InputError(f"{path}: nothing in section {section!r}; list some items there.")
    return items


def _split(items: list[Item], path: Path, fraction: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Split by subject, so that no person is on both sides."""
    if not 0 <= fraction < 1:
        raise InputError(f"val_fraction must be in [0, 1), got {fraction}.")
    subjects = sorted({item["subject"] for item in items}, key=lambda name: _hash(f"{seed}:{name}"))
    if fraction and len(subjects) < 2:
        raise InputError(
            f"{path}: {len(subjects)} subject in training and no list 'validation'; add subjects, or list both parts "
            "in a datalist.json."
        )
    count = min(max(1, round(len(subjects) * fraction)), len(subjects) - 1) if fraction else 0
    chosen = set(subjects[:count])
    kept = [item for item in items if item["subject"] not in chosen]
    return kept, [item for item in items if item["subject"] in chosen]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _list_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    return next((path / name for name in LISTS if (path / name).is_file()), None)


def _read_sections(path: Path) -> dict[str, list[Item]]:
    file = _list_file(path)
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
    image_of, label_of = _by_stem(images), _by_stem(labels)
    if not image_of and not label_of:
        raise InputError(f"{images}: no scan here; looked for {_formats()}.")
    lonely = [image_of[stem] for stem in image_of.keys() - label_of.keys()]
    lonely += [label_of[stem] for stem in label_of.keys() - image_of.keys()]
    if lonely:
        raise InputError(
            f"{images.parent}: {len(lonely)} files without a partner of the same name in {images.name}/ and "
            f"{labels.name}/: {_some(f'{path.parent.name}/{path.name}' for path in sorted(lonely))}; "
            "rename or remove them."
        )
    return [{"image": str(image_of[stem]), "label": str(label_of[stem])} for stem in sorted(image_of)]


def _by_stem(folder: Path) -> dict[str, Path]:
    scans = list_scans(folder)
    count = Counter(stem_of(scan) for scan in scans)
    twice = [scan.name for scan in scans if count[stem_of(scan)] > 1]
    if twice:
        raise InputError(f"{folder}: files with the same name and another suffix: {_some(twice)}; keep one of each.")
    return {stem_of(scan): scan for scan in scans}


def _complete_sections(sections: dict[str, list[Item]], root: Path) -> dict[str, list[Item]]:
    """Name the cases of all sections together, so that no two of them share a name."""
    complete = iter(_complete([item for items in sections.values() for item in items], root))
    return {name: [next(complete) for _ in items] for name, items in sections.items()}


def _complete(items: list[Item], root: Path) -> list[Item]:
    names = _case_names([_paths(item["image"])[0] for item in items], root)
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
    names = []
    for path in paths:
        folders = (
            Path(path).parent.parts[len(root.parts) :] if Path(path).is_relative_to(root) else Path(path).parts[-2:-1]
        )
        parts = [stem_of(path)] if count[stem_of(path)] == 1 else [*folders, stem_of(path)]
        name = unique = re.sub(r"[^\w.-]+", "_", "_".join(parts)).strip("_.") or "case"
        number = 1
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique)
        names.append(unique)
    return names


def _check_files(items: list[Item], path: Path) -> None:
    named = [file for item in items for key in ("image", "label") for file in _paths(item.get(key, []))]
    missing = [file for file in named if not Path(file).exists()]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(named)} files are missing: {_some(missing)}; mend their paths."
        )


def _paths(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _some(names: Iterable[str], limit: int = 5) -> str:
    every = list(names)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")


def _formats() -> str:
    return f"{' '.join(SCAN_SUFFIXES)} files and folders of DICOM files"
