# SPDX-License-Identifier: Apache-2.0
"""Reach against the voxels that a cell really depends on."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_ext.networks.layers.reach import Reach

CHAINS = {
    "convolutions": [nn.Conv2d(1, 1, (3, 7), 1, (1, 3)), nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 5, (1, 3), 2)],
    "pooling": [nn.Conv2d(1, 1, 3, 1, 1), nn.AvgPool2d(2), nn.Identity(), nn.Conv2d(1, 1, 3, 1, 1)],
    "uneven padding": [nn.Conv2d(1, 1, 4, 2, 1), nn.AvgPool2d((3, 2), (2, 1))],
}  # fmt: skip


@pytest.mark.parametrize("layers", CHAINS.values(), ids=CHAINS)
def test_it_is_what_the_gradient_reaches(layers: list[nn.Module]) -> None:
    reach = Reach.of_voxels(2)
    for layer in layers:
        reach = reach.through(layer)
    image = torch.rand(1, 1, 48, 48, requires_grad=True)
    cell = (6, 5)
    nn.Sequential(*layers)(image)[(0, 0, *cell)].backward()
    touched = image.grad[0, 0].nonzero()
    first = [i * s - b for i, s, b in zip(cell, reach.stride, reach.below, strict=True)]
    last = [i * s + a for i, s, a in zip(cell, reach.stride, reach.above, strict=True)]
    assert touched.amin(dim=0).tolist() == first
    assert touched.amax(dim=0).tolist() == last


def test_the_halo_lies_outside_of_the_cell_itself() -> None:
    assert Reach(below=(5,), above=(9,), stride=(4,)).halo == (6,)
    assert Reach(below=(5,), above=(7,), stride=(4,)).halo == (5,)
    assert Reach(below=(0,), above=(3,), stride=(4,)).halo == (0,)


def test_a_finer_map_that_takes_coarse_cells_sees_their_first_voxel_from_its_last_cell() -> None:
    coarse = Reach(below=(3,), above=(8,), stride=(8,))
    fine = Reach(below=(4,), above=(9,), stride=(2,))
    assert coarse.resized(fine) == Reach(below=(9,), above=(8,), stride=(2,))
    assert fine | coarse.resized(fine) == Reach(below=(9,), above=(9,), stride=(2,))


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(TypeError, match="the reach of ConvTranspose2d is not known"):
        Reach.of_voxels(2).through(nn.ConvTranspose2d(1, 1, 2))
    with pytest.raises(TypeError, match="padded by rule"):
        Reach.of_voxels(2).through(nn.Conv2d(1, 1, 3, padding="same"))
    with pytest.raises(ValueError, match="the same stride"):
        Reach.of_voxels(1) | Reach((0,), (0,), (2,))
