# SPDX-License-Identifier: Apache-2.0
"""mining_preset changes what it is told to, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monai_ext.losses import MINING_PRESETS, mining_preset


@pytest.mark.parametrize("name", MINING_PRESETS)
def test_without_numbers_it_is_the_preset(name: str) -> None:
    assert mining_preset(name, local_negatives=None, global_ignore_mm=None) == MINING_PRESETS[name]


def test_a_number_takes_the_place_of_the_presets_zero_included() -> None:
    assert mining_preset("official", local_ignore_mm=0.0) == replace(MINING_PRESETS["official"], local_ignore_mm=0.0)


def test_unknown_presets_and_impossible_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="official, notes"):
        mining_preset("best")
    with pytest.raises(ValueError, match="candidates"):
        mining_preset("official", local_negatives=5000)
