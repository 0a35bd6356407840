# SPDX-License-Identifier: Apache-2.0
"""Finds bundles on disk and reads what they say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai_ext
from monai_ext.errors import InputError

METADATA = Path("configs") / "metadata.json"


def find_bundle(name: str) -> Path:
    """Return the folder of a bundle, given as a path or as the name of a folder under one of `bundle_homes`.

    Raises:
        InputError: there is no such bundle; the message names those that there are.
    """
    candidates = [Path(name).expanduser(), *(home / name for home in bundle_homes())]
    for folder in candidates:
        if (folder / METADATA).is_file():
            return folder.resolve()
    known = ", ".join(folder.name for folder in all_bundles()) or "none"
    raise InputError(f"{name}: no bundle (a folder with {METADATA}) of this name or path; found: {known}.")


def all_bundles() -> list[Path]:
    """Return the folders of all bundles in `bundle_homes`, the first of each name, sorted by name."""
    found: dict[str, Path] = {}
    for home in bundle_homes():
        for metadata in sorted(home.glob(f"*/{METADATA}")):
            folder = metadata.parents[1].resolve()
            found.setdefault(folder.name, folder)
    return [found[name] for name in sorted(found)]


def bundle_homes() -> list[Path]:
    """Return where bundles are looked for: ``./bundles``, the working folder, beside the package."""
    return [Path("bundles"), Path("."), Path(monai_ext.__file__).resolve().parents[1] / "bundles"]


def read_metadata(bundle: Path) -> dict[str, Any]:
    """Return a bundle's ``configs/metadata.json``.

    Raises:
        InputError: it is missing or no JSON object.
    """
    return read_json(bundle / METADATA)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file that holds an object.

    Raises:
        InputError: it is missing, no JSON, or something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it must be a JSON file.") from error
    except ValueError as error:
        raise InputError(f"{path}: is no valid JSON ({error}); mend that line.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object, has a {type(content).__name__}.")
    return content
