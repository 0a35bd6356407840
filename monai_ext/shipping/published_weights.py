# SPDX-License-Identifier: Apache-2.0
"""Weights that somebody else published, recognised by their bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from monai_ext.shipping.licence_entry import LicenceEntry
from monai_ext.shipping.licence_file import LicenceFile


@dataclass(frozen=True)
class PublishedWeights:
    """What all bundles say of the published weights that they can start or learn from.

    Attributes:
        by_hash: SHA-256 -> entry.
        by_name: file name -> entry; a name is a claim, the bytes are a proof.

    Example:
        >>> PublishedWeights.of([]).by_hash
        {}
    """

    by_hash: dict[str, LicenceEntry]
    by_name: dict[str, LicenceEntry]

    @classmethod
    def of(cls, bundles: Iterable[Path]) -> PublishedWeights:
        """Collect from the bundles' ``docs/licences.json`` and ``large_files.yml``.

        Raises:
            InputError: one of these files is not what it should be.
        """
        by_hash: dict[str, LicenceEntry] = {}
        by_name: dict[str, LicenceEntry] = {}
        for bundle in bundles:
            file = LicenceFile.read(bundle)
            named = {path: replace(entry, name=Path(path).name) for path, entry in file.weights.items()}
            by_hash |= {digest: named[path] for digest, path in file.hashes.items() if path in named}
            teachers = [replace(entry, name=Path(path).name) for path, entry in file.teachers.items()]
            by_name |= {entry.name: entry for entry in (*named.values(), *teachers)}
        return cls(by_hash, by_name)
