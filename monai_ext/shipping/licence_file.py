# SPDX-License-Identifier: Apache-2.0
"""``docs/licences.json`` of a bundle: code, published weights, teachers and data, and what they allow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.shipping.licence_entry import LicenceEntry

LICENCE_FILE = Path("docs") / "licences.json"
MISSING = "there is no docs/licences.json"


@dataclass(frozen=True)
class LicenceFile:
    """What a bundle says of its rights.

    Attributes:
        code: of the bundle itself.
        weights: published files that it can start from, by their path in the bundle.
        hashes: SHA-256 -> path of these weights, as far as ``large_files.yml`` has them.
        data: that its demo and recipes read.
        teachers: published files that its weights may learn from, by their path, without being made of them; no
            ``large_files.yml`` lists them, for want of a hash.

    Example:
        >>> LicenceFile.read(Path("bundles/desam")).code.licence  # doctest: +SKIP
        'Apache-2.0'
    """

    code: LicenceEntry
    weights: Mapping[str, LicenceEntry]
    hashes: Mapping[str, str]
    data: tuple[LicenceEntry, ...]
    teachers: Mapping[str, LicenceEntry] = field(default_factory=dict)

    @classmethod
    def read(cls, bundle: Path) -> LicenceFile:
        """Read the file of a bundle; without one nothing is known.

        Raises:
            InputError: it is no valid JSON, or an entry says something else than it must.
        """
        path = bundle / LICENCE_FILE
        hashes = _published_hashes(bundle)
        if not path.is_file():
            return cls(LicenceEntry("code", bundle.name, "unknown", "unknown", via=MISSING), {}, hashes, ())
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            code = _entry("code", {"name": bundle.name, **content["code"]})
            weights, teachers = _files(content["weights"]), _files(content.get("teachers", []))
            data = tuple(_entry("data", record) for record in content["data"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: must hold code, weights and data, each with licence, commercial (yes, no, unknown) and "
                f"source; {type(error).__name__}: {error}"
            ) from error
        return cls(code, weights, hashes, data, teachers)


def _files(records: Iterable[Mapping[str, Any]]) -> dict[str, LicenceEntry]:
    return {record["path"]: _entry("weights", {**record, "name": record["path"]}) for record in records}


def _entry(kind: str, record: Mapping[str, Any]) -> LicenceEntry:
    return LicenceEntry.of({**record, "kind": kind})


def _published_hashes(bundle: Path) -> dict[str, str]:
    import yaml

    path = bundle / "large_files.yml"
    if not path.is_file():
        return {}
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"]
    return {str(file["hash_val"]): file["path"] for file in listed if file.get("hash_type") == "sha256"}
