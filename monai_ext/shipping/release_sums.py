# SPDX-License-Identifier: Apache-2.0
"""The list of a release's files with their SHA-256."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from monai_ext.errors import InputError


@dataclass(frozen=True)
class ReleaseSums:
    """What ``SHA256SUMS``, or ``FILE.sha256``, says.

    Attributes:
        source: how errors call it.
        digests: file name -> SHA-256, in lower case.

    Example:
        >>> sums = ReleaseSums.of("0" * 64 + "  a_v0.9.0.zip", "SHA256SUMS")
        >>> sums.newest("a")
        'a_v0.9.0.zip'
    """

    source: str
    digests: Mapping[str, str]

    @classmethod
    def of(cls, text: str, source: str) -> ReleaseSums:
        """Read lines as `sha256sum` writes them.

        Raises:
            InputError: a line is something else, or gives a file a second sum.
        """
        digests: dict[str, str] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S.*)", line)
            if match is None:
                raise InputError(f"{source}: {line[:80]!r} is no line of sha256sum; fetch it again.")
            digest, name = match[1].lower(), match[2]
            if digests.setdefault(name, digest) != digest:
                raise InputError(f"{source}: has two sums for {name}; fetch it again.")
        return cls(source, digests)

    def newest(self, bundle: str, version: str | None = None) -> str:
        """Return the ``NAME_vVERSION.zip`` of the highest version, compared as numbers, or of the one asked for.

        Raises:
            InputError: there is none; names the bundles that there are.
        """
        found = {}
        for name in self.digests:
            match = re.fullmatch(rf"{re.escape(bundle)}_v(\d+(?:\.\d+)*)\.zip", name)
            if match and version in (None, match[1]):
                found[tuple(map(int, match[1].split(".")))] = name
        if not found:
            others = sorted({match[1] for name in self.digests if (match := re.fullmatch(r"(\w+)_v[\d.]+\.zip", name))})
            wanted = f"{bundle} {version}" if version else bundle
            raise InputError(f"{self.source}: has no zip of {wanted}; bundles there: {', '.join(others) or 'none'}.")
        return found[max(found)]
