# SPDX-License-Identifier: Apache-2.0
"""Licences in words: allowed only where that is sure."""

from __future__ import annotations

import pytest

from monai_ext.commands.convert import LICENCES
from monai_ext.networks.checkpoints.mae import MAE_LICENCE
from monai_ext.networks.checkpoints.simclr import SIMCLR_LICENCE
from monai_ext.shipping.commercial_use import commercial_use_of


@pytest.mark.parametrize(
    "licence",
    [
        "Apache-2.0", "MIT", "BSD-3-Clause", "CC BY 4.0", "CC-BY-SA 4.0", "CC0", SIMCLR_LICENCE, LICENCES["sam2"],
        "ICBM 152 notice, free for any purpose with the notice kept: LICENSE-ICBM152.txt",
    ],
)  # fmt: skip
def test_known_licences_allow_it(licence: str) -> None:
    assert commercial_use_of(licence) == "yes"


@pytest.mark.parametrize(
    "licence",
    [
        MAE_LICENCE, "CC BY-NC 4.0", "cc-by-nc-sa-3.0", "Apache-2.0; weights CC BY-NC 4.0", "MIT, non-commercial",
        "for research use only", "not for commercial use",
    ],
)  # fmt: skip
def test_a_word_that_forbids_it_wins(licence: str) -> None:
    assert commercial_use_of(licence) == "no"


@pytest.mark.parametrize(
    "licence",
    [
        "", "unknown", "ours", "a Synapse account", "MITRE's own", "Apache-2.0 for the code; weights not stated",
        "CC BY 3.0 by a copy's description (unconfirmed)", LICENCES["desam"], LICENCES["sam"], LICENCES["published"],
    ],
)  # fmt: skip
def test_what_is_not_sure_is_unknown(licence: str) -> None:
    assert commercial_use_of(licence) == "unknown"
