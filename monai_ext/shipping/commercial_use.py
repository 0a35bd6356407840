# SPDX-License-Identifier: Apache-2.0
"""What the text of a licence says about commercial use."""

from __future__ import annotations

import re

ALLOWING = {
    "apache-2.0", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "zlib", "unlicense", "cc0", "cc0-1.0", "pddl-1.0",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "odc-by-1.0", "icbm-152-notice",
}  # fmt: skip
FORBIDDING = re.compile(
    r"(?<![a-z])nc(?![a-z0-9])|non-?\s?commercial|\bnot\b[^.;]*\bcommercial|no commercial|"
    r"(research|academic|educational) (use|purposes) only|only for (research|academic|educational)",
    re.IGNORECASE,
)
UNSURE = re.compile(r"unconfirmed|unknown|not (stated|seen|read|sure)|no licence|as the source", re.IGNORECASE)


def commercial_use_of(licence: str) -> str:
    """Return ``yes``, ``no`` or ``unknown``, careful rather than clever.

    ``yes`` is said of a few licences that are known to allow it, alone or followed by an explanation after a bracket, a
    comma or a colon. Words that forbid it, anywhere in the text, win; so does a word of doubt over ``yes``.

    Example:
        >>> commercial_use_of("Apache-2.0 (SAM 2, Meta)"), commercial_use_of("CC BY-NC 4.0"), commercial_use_of("ours")
        ('yes', 'no', 'unknown')
    """
    if FORBIDDING.search(licence):
        return "no"
    name = re.split(r"[,;:(]", licence, maxsplit=1)[0].strip().lower()
    sure = re.sub(r"[\s_]+", "-", name) in ALLOWING and not UNSURE.search(licence)
    return "yes" if sure else "unknown"
