# SPDX-License-Identifier: Apache-2.0
"""What a released bundle is made of, and under which licences."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_ext.files import sha256_of
from monai_ext.shipping.licence_entry import LicenceEntry, strictest
from monai_ext.shipping.licence_file import LicenceFile
from monai_ext.shipping.published_weights import PublishedWeights
from monai_ext.shipping.release import released_files
from monai_ext.shipping.weights_origin import SIDECAR, WEIGHTS, weights_origin


@dataclass(frozen=True)
class BundleLicences:
    """Licences of what is in a bundle's release, and of what its user fetches.

    Attributes:
        bundle: its name.
        version: its version.
        contained: code, and what each of the released weights is made of.
        fetched: published weights and data that the release names but does not contain.
        sidecars: file name in the bundle -> content, to be released beside each file of weights, so that whoever goes
            on training from it can tell what it is made of.

    Example:
        >>> BundleLicences.of(Path("bundles/desam"), "0.1.0", PublishedWeights.of([])).commercial  # doctest: +SKIP
        'yes'
    """

    bundle: str
    version: str
    contained: tuple[LicenceEntry, ...]
    fetched: tuple[LicenceEntry, ...]
    sidecars: dict[str, bytes]

    @classmethod
    def of(cls, bundle: Path, version: str, published: PublishedWeights, with_models: bool = False) -> BundleLicences:
        """Find them out.

        Args:
            bundle: the bundle's folder.
            version: its version.
            published: weights that are known by their bytes.
            with_models: whether the release has the weights of ``models/``.

        Raises:
            InputError: ``docs/licences.json`` is not what it should be.
        """
        stated = LicenceFile.read(bundle)
        files_of: dict[LicenceEntry, list[str]] = {}
        sidecars = {}
        for file in sorted(released_files(bundle, with_models)):
            if file.startswith("models/") and file.endswith(WEIGHTS):
                parts = weights_origin(bundle / file, published)
                sidecars[file + SIDECAR] = _sidecar(bundle / file, parts)
                for part in parts:
                    files_of.setdefault(part, []).append(file)
        contained = [replace(part, via=_via(files, part)) for part, files in files_of.items()]
        fetched = (*stated.weights.values(), *stated.teachers.values(), *stated.data)
        return cls(bundle.name, version, (stated.code, *contained), fetched, sidecars)

    @property
    def commercial(self) -> str:
        """What all that is contained allows together."""
        return strictest(self.contained)

    def as_record(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "bundle": self.bundle,
            "version": self.version,
            "commercial": self.commercial,
            "contained": [entry.as_record() for entry in self.contained],
            "fetched_by_the_user": [entry.as_record() for entry in self.fetched],
        }


def _via(files: list[str], part: LicenceEntry) -> str:
    return " <- ".join(filter(None, [", ".join(files), part.via]))


def _sidecar(file: Path, parts: list[LicenceEntry]) -> bytes:
    record = {
        "sha256": sha256_of(file),
        "commercial": strictest(parts),
        "parts": [part.as_record() for part in parts],
    }
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
