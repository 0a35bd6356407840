# SPDX-License-Identifier: Apache-2.0
"""A published choice of negatives with some numbers of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monai_ext.losses.negative_mining import MINING_PRESETS, NegativeMining


def mining_preset(name: str = "official", **numbers: Any) -> NegativeMining:
    """Return a preset of `NegativeMining` in which the numbers given take the place of its own.

    Args:
        name: ``official`` or ``notes``.
        **numbers: arguments of `NegativeMining`; None leaves the preset's.

    Raises:
        ValueError: an unknown preset, or numbers out of their range.

    Example:
        >>> mining_preset("notes", local_negatives=200, global_random=None).local_negatives
        200
    """
    if name not in MINING_PRESETS:
        raise ValueError(f"mining must be one of {', '.join(MINING_PRESETS)}, got {name!r}.")
    return replace(MINING_PRESETS[name], **{key: value for key, value in numbers.items() if value is not None})
