# SPDX-License-Identifier: Apache-2.0
"""Refuses names that are given more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from monai_ext.errors import InputError


def check_distinct(what: str, names: Iterable[str], remedy: str) -> None:
    """Check that each name is there once.

    Args:
        what: option that the names come from.
        names: to be checked.
        remedy: what to do, without a full stop.

    Raises:
        InputError: some are not; it names them.

    Example:
        >>> check_distinct("--bundles", ["desam", "sam_sp", "desam"], "give each once")
        Traceback (most recent call last):
        ...
        monai_ext.errors.InputError: --bundles: desam more than once; give each once.
    """
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{what}: {', '.join(twice)} more than once; {remedy}.")
