# SPDX-License-Identifier: Apache-2.0
"""One thing with a licence: code, weights or data, and whether it may be used commercially."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("code", "weights", "data")
STRICTEST_FIRST = ("no", "unknown", "yes")


@dataclass(frozen=True)
class LicenceEntry:
    """What something is made of, as far as rights go.

    Attributes:
        kind: ``code``, ``weights`` or ``data``.
        name: of the file or the data.
        licence: its licence, in words.
        commercial: whether it allows commercial use: ``yes``, ``no`` or ``unknown``.
        source: address or file where the licence is stated; empty if there is none.
        via: how it came in, such as ``eval/run.json: pretrained``; empty if it is a part itself.

    Raises:
        ValueError: another kind, or another word for commercial use.

    Example:
        >>> LicenceEntry("weights", "sam.pth", "Apache-2.0", "yes").commercial
        'yes'
    """

    kind: str
    name: str
    licence: str
    commercial: str
    source: str = ""
    via: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        if self.commercial not in STRICTEST_FIRST:
            raise ValueError(f"commercial must be one of {', '.join(STRICTEST_FIRST)}, got {self.commercial!r}.")

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> LicenceEntry:
        """Read what `as_record` wrote; other keys are left alone.

        Raises:
            ValueError: a text is missing, or is none.
        """
        texts = {name: record.get(name, "") for name in ("kind", "name", "licence", "commercial", "source", "via")}
        wrong = [name for name, text in texts.items() if not isinstance(text, str)]
        wrong += [name for name in ("name", "licence") if not texts[name]]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} must be text, and name and licence not empty, got {dict(record)!r}.")
        return cls(**texts)

    def as_record(self) -> dict[str, str]:
        """Return plain values, for JSON."""
        return asdict(self)


def strictest(entries: Iterable[LicenceEntry]) -> str:
    """Return what all of them together allow: one ``no`` makes ``no``, else one ``unknown`` makes ``unknown``.

    Example:
        >>> strictest([LicenceEntry("code", "a", "MIT", "yes"), LicenceEntry("data", "b", "?", "unknown")])
        'unknown'
    """
    found = {entry.commercial for entry in entries}
    return next((word for word in STRICTEST_FIRST if word in found), "unknown")
