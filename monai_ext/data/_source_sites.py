# SPDX-License-Identifier: Apache-2.0
"""Which sites a network is trained on, checked against the sites that a data set has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from monai_ext.data._sections import Item, some
from monai_ext.errors import InputError
from monai_ext.sites import SiteChoice, site_names


def source_sites(items: Sequence[Item], source_site: SiteChoice, origin: Path | str) -> tuple[str, ...]:
    """Return the names of the source sites.

    Args:
        items: all items of the data set, of every section.
        source_site: one name or several.
        origin: the data set, with which the message of an error begins.

    Raises:
        InputError: if items do not say their site, no site is named, or one that no item has.
    """
    nameless = [item["case"] for item in items if not item["site"]]
    if nameless:
        raise InputError(
            f"{origin}: {len(nameless)} of {len(items)} cases name no site ({some(nameless)}), so source_site cannot "
            'choose; give each item of its datalist.json a "site", or leave source_site out.'
        )
    count = Counter(item["site"] for item in items)
    names = site_names(source_site)
    unknown = [name for name in names if name not in count]
    if unknown or not names:
        known = ", ".join(f"{site} ({cases})" for site, cases in sorted(count.items()))
        raise InputError(f"{origin}: no site {', '.join(unknown) or 'is named'}; set source_site to some of {known}.")
    return names
