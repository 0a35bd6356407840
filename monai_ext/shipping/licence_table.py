# SPDX-License-Identifier: Apache-2.0
"""The licences of a release as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from monai_ext.shipping.licence_entry import LicenceEntry
from monai_ext.shipping.licences import BundleLicences

HEADS = ("what", "kind", "licence", "commercial use", "stated at", "came in by")
INTRODUCTION = """# Licences of this release

What each file is made of, as far as it is known. The strictest part counts for the whole; "unknown" means that nobody
has said so, not that it is allowed. This page is no legal advice.
"""


def licence_table(bundles: Iterable[BundleLicences], wheel: LicenceEntry) -> str:
    """Return Markdown: the wheel, then for each bundle what it contains and what its user fetches.

    Example:
        >>> page = licence_table([], LicenceEntry("code", "monai_ext-0.1.0-py3-none-any.whl", "Apache-2.0", "yes"))
        >>> print(page.splitlines()[-1])
        | monai_ext-0.1.0-py3-none-any.whl | code | Apache-2.0 | yes |  |  |
    """
    parts = [INTRODUCTION, "## The package\n", _table([wheel])]
    for bundle in bundles:
        parts += [f"\n## {bundle.bundle} {bundle.version}\n"]
        parts += [f"Commercial use of what the zip contains: **{bundle.commercial}**\n", _table(bundle.contained)]
        if bundle.fetched:
            parts += ["\nNot contained; named for the user to fetch, under these terms:\n", _table(bundle.fetched)]
    return "\n".join(parts) + "\n"


def _table(entries: Sequence[LicenceEntry]) -> str:
    rows = [HEADS, ("---",) * len(HEADS)]
    rows += [(e.name, e.kind, e.licence, e.commercial, e.source, e.via) for e in entries]
    return "\n".join(f"| {' | '.join(_cell(text) for text in row)} |" for row in rows)


def _cell(text: str) -> str:
    """Keep a text within its cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
