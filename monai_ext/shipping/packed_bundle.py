# SPDX-License-Identifier: Apache-2.0
"""A bundle's release zip with its hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monai_ext.files import atomic_write, sha256_of
from monai_ext.shipping.release import sha1_of, write_zip


@dataclass(frozen=True)
class PackedBundle:
    """A zip that `write_zip` wrote.

    Attributes:
        path: of the zip, ``NAME_vVERSION.zip``.
        files: what is in it.
        sha256: of the zip; also written into ``NAME_vVERSION.zip.sha256``, as `sha256sum -c` reads it.

    Example:
        >>> PackedBundle.write(Path("bundles/desam"), "0.1.0", Path("dist")).path.name  # doctest: +SKIP
        'desam_v0.1.0.zip'
    """

    path: Path
    files: list[str]
    sha256: str

    @classmethod
    def write(
        cls,
        bundle: Path,
        version: str,
        folder: Path,
        with_models: bool = False,
        added: Mapping[str, bytes] | None = None,
    ) -> PackedBundle:
        """Write both files into ``folder``, each whole or not at all; arguments as of `write_zip`."""
        path = folder / f"{bundle.name}_v{version}.zip"
        files = write_zip(bundle, bundle.name, path, with_models, added)
        digest = sha256_of(path)
        with atomic_write(path.with_name(path.name + ".sha256")) as temporary:
            temporary.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
        return cls(path, files, digest)

    def model_info(self, folder: str) -> dict[str, dict[str, str]]:
        """Return the entry of MONAI's ``model_info.json``.

        Args:
            folder: address of the folder that the zip will be found in.
        """
        source = f"{folder.rstrip('/')}/{self.path.name}"
        return {self.path.stem: {"checksum": sha1_of(self.path), "sha256": self.sha256, "source": source}}
