# SPDX-License-Identifier: Apache-2.0
"""Says which files a batch was made of, for error messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

LONGEST_LIST = 8


def describe_batch(batch: object) -> str:
    """Return the files, or else the cases, of a collated batch, with their slices.

    Files come from the image's metadata (``filename_or_obj``), cases and slices from the keys ``case`` and
    ``slice``. What a batch does not know is left out.

    Example:
        >>> describe_batch({"image": None, "case": ["p1", "p2"], "slice": [3, 90]})
        'p1 (slice 3), p2 (slice 90)'
    """
    if not isinstance(batch, Mapping):
        return "a batch without names"
    names = _files(batch) or _listed(batch.get("case")) or _listed(batch.get("subject"))
    if not names:
        return "a batch without names"
    slices = _listed(batch.get("slice"))[: len(names)]
    texts = [f"{n}" if s is None else f"{n} (slice {s})" for n, s in zip_longest(names, slices)]
    rest = len(texts) - LONGEST_LIST
    return ", ".join(texts[:LONGEST_LIST]) + (f" and {rest} more" if rest > 0 else "")


def _files(batch: Mapping[Any, Any]) -> list[object]:
    meta = getattr(batch.get("image"), "meta", None) or batch.get("image_meta_dict")
    return _listed(meta.get("filename_or_obj")) if isinstance(meta, Mapping) else []


def _listed(value: object) -> list[object]:
    """Return the value of each item: collation leaves a tensor, a list or, from one item, the bare value."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
