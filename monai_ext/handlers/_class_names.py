# SPDX-License-Identifier: Apache-2.0
"""Names of the classes that are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_ext.errors import InputError


def foreground_names(names: Sequence[str] | Mapping[Any, str] | None, num_classes: int) -> dict[int, str]:
    """Return the name of each foreground class; the names may have the background first, or be missing.

    Raises:
        InputError: there are fewer or more names than classes.
    """
    count = max(num_classes, 2) - 1
    given = {str(key): name for key, name in names.items()} if isinstance(names, Mapping) else {}
    if names is not None and not isinstance(names, Mapping):
        if isinstance(names, str) or len(names) not in (count, count + 1):
            raise InputError(
                f"class_names must name the {count} foreground classes, or the background and these, got {names}."
            )
        given = {str(index): name for index, name in enumerate(names[-count:], start=1)}
    return {index: str(given.get(str(index)) or f"class {index}") for index in range(1, count + 1)}
