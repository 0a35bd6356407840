# SPDX-License-Identifier: Apache-2.0
"""Optional packages and switches."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from monai_ext.errors import InputError


def is_installed(package: str) -> bool:
    """Return whether an optional package can be imported, without importing it.

    Example:
        >>> is_installed("json")
        True
    """
    return find_spec(package) is not None


def check_flags(knobs: Mapping[str, object]) -> None:
    """Refuse ``--amp false``: the command line hands it on as a text, and any text counts as true.

    Raises:
        InputError: a value is the text "true" or "false".
    """
    for name, value in knobs.items():
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            raise InputError(f"--{name} {value}: write it with a capital, --{name} {value.capitalize()}.")
