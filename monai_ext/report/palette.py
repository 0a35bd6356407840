# SPDX-License-Identifier: Apache-2.0
"""Colours that stay apart for readers with any colour vision (Okabe and Ito 2008), and on a grey image."""

from __future__ import annotations

# The order puts the pairs that differ most first; the second seven are lighter or darker kin for long class lists.
_CLASS_COLOURS = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
    (170, 220, 250),
    (255, 207, 112),
    (118, 214, 186),
    (238, 187, 216),
    (153, 142, 0),
    (255, 163, 107),
    (120, 94, 220),
)

ERROR_NAMES = ("missed", "extra", "wrong class")
ERROR_COLOURS = ((70, 165, 255), (255, 110, 20), (255, 240, 70))  # bright: they lie on a darkened image


def class_colour(index: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue) of class ``index`` >= 1; long lists of classes begin again."""
    return _CLASS_COLOURS[(index - 1) % len(_CLASS_COLOURS)]


def css_colour(colour: tuple[int, int, int]) -> str:
    """Return a colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
