# SPDX-License-Identifier: Apache-2.0
"""The names of sites, as a knob or a data list gives them."""

from __future__ import annotations

from collections.abc import Sequence

SiteChoice = str | int | Sequence[str | int]


def site_names(source_site: SiteChoice | None) -> tuple[str, ...]:
    """Return the sites of a knob, which holds one name, several, or none.

    A command line turns the name ``1`` into a number, so numbers are names too.

    Example:
        >>> site_names("north"), site_names(["north", 7]), site_names(None)
        (('north',), ('north', '7'), ())
    """
    if source_site is None:
        return ()
    if isinstance(source_site, (str, int)):
        return (str(source_site),)
    return tuple(dict.fromkeys(str(name) for name in source_site))
