# SPDX-License-Identifier: Apache-2.0
"""Tiles: cores fill the volume once, halos end at its border, and the plan with the least work comes first."""

from __future__ import annotations

from math import prod

import pytest
import torch

from monai_ext.inferers._tiles import TilePlan, tile_plans, whole, whole_blocks

SHAPE, BLOCK, HALO = (28, 96, 48), (4, 16, 16), (5, 16, 33)


@pytest.mark.parametrize("plan", [*tile_plans(SHAPE, BLOCK, HALO), whole(SHAPE)])
def test_cores_fill_the_volume_once_and_tiles_begin_at_blocks(plan: TilePlan) -> None:
    filled, shapes, total = torch.zeros(SHAPE, dtype=torch.int), set(), 0
    for tile in plan:
        filled[tuple(map(slice, tile.core_first, tile.core_stop))] += 1
        axes = zip(tile.first, tile.stop, tile.core_first, tile.core_stop, SHAPE, BLOCK, plan.halo, strict=True)
        for first, stop, core_first, core_stop, side, step, halo in axes:
            assert (first % step, stop % step) == (0, 0)
            assert (first, stop) == (max(core_first - halo, 0), min(core_stop + halo, side))
        shapes.add(tuple(stop - first for first, stop in zip(tile.first, tile.stop, strict=True)))
        total += prod(stop - first for first, stop in zip(tile.first, tile.stop, strict=True))
    assert (filled == 1).all()
    assert shapes <= set(plan.shapes)
    assert total == plan.total
    assert len(list(plan)) == len(plan)


def test_plans_come_in_the_order_of_their_work_from_the_whole_to_single_blocks() -> None:
    plans = tile_plans(SHAPE, BLOCK, HALO)
    assert [plan.total for plan in plans] == sorted(plan.total for plan in plans)
    assert (plans[0].core, len(plans[0])) == (SHAPE, 1)
    assert BLOCK in [plan.core for plan in plans]
    assert {plan.halo for plan in plans} == {whole_blocks(HALO, BLOCK)} == {(8, 16, 48)}
