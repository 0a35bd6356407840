# SPDX-License-Identifier: Apache-2.0
"""Names of sites, as knobs give them."""

from __future__ import annotations

import pytest

from monai_ext.sites import SiteChoice, site_names


@pytest.mark.parametrize(
    ("given", "names"),
    [(None, ()), ("north", ("north",)), (7, ("7",)), (["north", 7, "north"], ("north", "7")), ([], ())],
)
def test_a_knob_holds_no_name_or_one_or_several(given: SiteChoice | None, names: tuple[str, ...]) -> None:
    assert site_names(given) == names
