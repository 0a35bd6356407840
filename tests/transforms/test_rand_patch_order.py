# SPDX-License-Identifier: Apache-2.0
"""The order of patches: a permutation, drawn by the seed, which a masked autoencoder takes."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.nets.mae import build_mae
from monai_ext.transforms import RandPatchOrderd


def order_of(seed: int, count: int = 64) -> torch.Tensor:
    return RandPatchOrderd(count).set_random_state(seed=seed)({"case": "a"})["order"]


def test_it_is_a_permutation_that_the_seed_decides() -> None:
    assert sorted(order_of(0).tolist()) == list(range(64))
    assert torch.equal(order_of(0), order_of(0))
    assert not torch.equal(order_of(0), order_of(1))


def test_the_item_keeps_what_it_had() -> None:
    item = {"case": "a"}
    assert RandPatchOrderd(2)(item).keys() == {"case", "order"}
    assert item == {"case": "a"}


def test_a_masked_autoencoder_hides_all_but_the_first() -> None:
    network, order = build_mae("small", 64, mask_ratio=0.75), torch.stack([order_of(0, 16), order_of(1, 16)])
    hidden = network(torch.rand(2, 1, 64, 64), order=order)[2]
    assert [set(row.nonzero().flatten().tolist()) for row in hidden == 0] == [set(o[:4].tolist()) for o in order]


def test_no_patch_is_no_image() -> None:
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        RandPatchOrderd(0)
