# SPDX-License-Identifier: Apache-2.0
"""Builds the release zip of a bundle, the same bytes on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.files import atomic_write

REQUIRED_FILES = ("LICENSE", "configs/metadata.json")
REQUIRED_METADATA = (
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
    "changelog",
)
OF_ONE_MACHINE = ("checkpoint", "_backup_", "_previous", "_damaged_")
LEFT_OUT = ("eval", "models", "__pycache__")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # a zip cannot say less; a real time would change the bytes


def check_release(bundle: Path, metadata: dict[str, Any], with_models: bool = False) -> str:
    """Check what must hold of any released bundle; return its version.

    Args:
        bundle: the bundle's folder.
        metadata: what its ``configs/metadata.json`` holds.
        with_models: whether its weights are released, too.

    Raises:
        InputError: a file or an entry is missing, or the version is not a key of the changelog, or it has a part
            above 9, which MONAI, comparing versions as text, would take for an older one.
    """
    for name in REQUIRED_FILES:
        if not (bundle / name).is_file():
            raise InputError(f"{bundle / name}: is missing; a released bundle needs it.")
    path = bundle / "configs" / "metadata.json"
    missing = [name for name in REQUIRED_METADATA if name not in metadata]
    if missing:
        raise InputError(f"{path}: has no {', '.join(missing)}; MONAI requires them.")
    version = str(metadata["version"])
    if not re.fullmatch(r"\d\.\d\.\d", version):
        raise InputError(
            f"{path}: version must be three single digits, as in 0.1.0, got {version!r}; MONAI compares them as text."
        )
    if version not in metadata["changelog"]:
        raise InputError(f"{path}: changelog has no entry {version!r}; say there what this version changes.")
    model = bundle / "models" / "model.pt"
    if with_models and not model.is_file():
        raise InputError(f"{model}: is missing; train first, or leave --with_models out.")
    return version


def check_schema(bundle: Path, metadata: dict[str, Any]) -> str | None:
    """Validate the metadata against MONAI's schema if a copy is here; return where it was, else None.

    Looked for at ``$MONAI_EXT_SCHEMA`` and at ``eval/schema.json`` of the bundle, where ``python -m monai.bundle
    verify_metadata --filepath eval/schema.json`` leaves it. Nothing is downloaded.

    Raises:
        InputError: the metadata breaks the schema; the message names the entry.
    """
    import jsonschema

    places = [Path(os.environ["MONAI_EXT_SCHEMA"])] if "MONAI_EXT_SCHEMA" in os.environ else []
    schema = next((path for path in [*places, bundle / "eval" / "schema.json"] if path.is_file()), None)
    if schema is None:
        return None
    try:
        jsonschema.validate(metadata, json.loads(schema.read_text(encoding="utf-8")))
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the whole"
        raise InputError(f"{bundle / 'configs' / 'metadata.json'}: {where}: {error.message[:300]}.") from error
    return str(schema)


def released_files(bundle: Path, with_models: bool = False) -> Iterator[str]:
    """Yield the files of a bundle that a release has, by their paths in it, in no order.

    Args:
        bundle: the bundle's folder.
        with_models: include ``models/``, without those files that ``large_files.yml`` says where to fetch.
    """
    fetched = _fetched_files(bundle)
    for file in bundle.rglob("*"):
        relative = file.relative_to(bundle)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if not file.is_file() or hidden or file.suffix == ".pyc" or relative.as_posix() in fetched:
            continue
        as_model = with_models and relative.parts[0] == "models" and _is_released_model(relative)
        if as_model or relative.parts[0] not in LEFT_OUT:
            yield relative.as_posix()


def write_zip(
    bundle: Path, name: str, path: Path, with_models: bool = False, added: Mapping[str, bytes] | None = None
) -> list[str]:
    """Write the files of a bundle, under a folder ``name``, and return their paths in the zip.

    The bytes depend on the files' names and contents only: sorted, one fixed time, fixed permissions, stored and
    not compressed (compressors differ between machines, and weights do not shrink).

    Args:
        bundle: the bundle's folder.
        name: the top folder in the zip, by which MONAI finds the bundle after unpacking.
        path: zip file to write.
        with_models: include ``models/``, without those files that ``large_files.yml`` says where to fetch.
        added: further files, by their paths in the bundle, in the place of what the bundle has under these names.
    """
    added = {} if added is None else added
    files = sorted({*released_files(bundle, with_models), *added})
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(f"{name}/{file}", date_time=EARLIEST)
            entry.create_system = 3  # Unix, wherever it is made
            entry.external_attr = 0o100644 << 16
            if file in added:
                archive.writestr(entry, added[file])
            else:
                _copy(bundle / file, archive, entry)
    return [f"{name}/{file}" for file in files]


def sha1_of(path: Path) -> str:
    """Return the SHA-1 of a file, which is what MONAI's model_info.json records."""
    with open(path, "rb") as file:
        digest = hashlib.sha1(usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _copy(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    entry.file_size = file.stat().st_size  # lets zipfile choose the format for weights beyond 2 GB
    with archive.open(entry, "w") as target, open(file, "rb") as source:
        while piece := source.read(1 << 20):
            target.write(piece)


def _is_released_model(relative: Path) -> bool:
    """Leave out what belongs to one machine's runs (to resume from, backups) and others' weights."""
    return relative.parts[1] != "pretrained" and not any(word in relative.name for word in OF_ONE_MACHINE)


def _fetched_files(bundle: Path) -> set[str]:
    import yaml

    path = bundle / "large_files.yml"
    return (
        {f["path"] for f in yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"]}
        if path.is_file()
        else set()
    )
