# SPDX-License-Identifier: Apache-2.0
"""Optional packages."""

from __future__ import annotations

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Return whether an optional package can be imported, without importing it.

    Example:
        >>> is_installed("json")
        True
    """
    return find_spec(package) is not None
