# SPDX-License-Identifier: Apache-2.0
"""CorrelationReadout: the least squares of its sums, and that it learns where a shifted embedding has gone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.networks.layers import GaussianFilter
from torch import Tensor

from monai_ext.networks.blocks.correlation_readout import CorrelationReadout, ReadoutSums
from monai_ext.networks.layers.local_correlation import LocalCorrelation

CELLS = (6, 7, 5)
SIDES = (12, 13, 10)  # the last row of cells has one voxel


def features(batch: int = 1) -> Tensor:
    return torch.randn(batch, 27, *CELLS)


def known(batch: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, *SIDES), torch.rand(batch, 1, *SIDES).round()


def weights_of(readout: CorrelationReadout) -> Tensor:
    return readout.sum.weight.detach().reshape(3, 27)


def test_it_adds_up_averages_and_goes_to_voxels() -> None:
    readout, x = CorrelationReadout(sigma=1.3), features(2)
    assert not readout(x).any()
    torch.nn.init.normal_(readout.sum.weight)
    summed = torch.einsum("kc,bczyx->bkzyx", weights_of(readout), x - x.mean(dim=1, keepdim=True))
    averaged = GaussianFilter(3, 1.3, truncated=3.0)(summed)
    expected = F.interpolate(averaged, scale_factor=2.0, mode="trilinear", align_corners=False)
    torch.testing.assert_close(readout(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(readout(x + torch.randn(2, 1, *CELLS)), expected, atol=1e-5, rtol=1e-5)


def test_solving_finds_the_weights_that_a_displacement_was_made_with() -> None:
    made, found = CorrelationReadout(sigma=0.7), CorrelationReadout(sigma=0.7)
    torch.nn.init.normal_(made.sum.weight)
    x = torch.randn(1, 27, 8, 9, 10)
    averaged = made._averaged(made.sum(x - x.mean(dim=1, keepdim=True))).detach()  # of a cell, hence of its voxels
    truth = F.interpolate(averaged, scale_factor=2.0, mode="nearest")
    explained = found.solve(found.sums(x, truth, torch.ones_like(truth[:, :1])))
    assert explained == pytest.approx(1.0, abs=1e-4)
    assert found.is_solved
    expected = weights_of(made) - weights_of(made).mean(dim=1, keepdim=True)  # what is alike for all channels is idle
    torch.testing.assert_close(weights_of(found), expected, atol=0.01, rtol=0.01)


def test_the_sums_are_those_of_cells_that_are_known_whole() -> None:
    readout, x, (truth, mask) = CorrelationReadout(sigma=1.0), features(), known()
    mask[..., :6, :, :] = 1
    averaged = GaussianFilter(3, 1.0, truncated=3.0)(x - x.mean(dim=1, keepdim=True))
    squares, products, variation, cells = torch.zeros(27, 27), torch.zeros(27, 3), 0.0, 0
    for cell in torch.cartesian_prod(*map(torch.arange, CELLS)).tolist():
        voxels = (0, slice(None), *(slice(2 * c, min(2 * c + 2, side)) for c, side in zip(cell, SIDES, strict=True)))
        if not mask[voxels].all():
            continue
        own, moved = averaged[(0, slice(None), *cell)], truth[voxels].flatten(1).mean(dim=1)
        squares, products = squares + torch.outer(own, own), products + torch.outer(own, moved)
        variation, cells = variation + float(moved.square().sum()), cells + 1
    found = readout.sums(x, truth, mask)
    torch.testing.assert_close(found.squares.float(), squares, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.products.float(), products, atol=1e-3, rtol=1e-4)
    assert (found.variation, found.cells) == (pytest.approx(variation, rel=1e-4), cells)


def test_two_lots_add_up_to_both_and_cells_behind_the_last_voxel_do_not_count() -> None:
    readout, x, (truth, mask) = CorrelationReadout(sigma=1.0), features(2), known(2)
    mask[:] = 1
    parts = [readout.sums(x[[n]], truth[[n]], mask[[n]]) for n in range(2)]
    both, whole = parts[0] + parts[1], readout.sums(x, truth, mask)
    assert isinstance(both, ReadoutSums)
    torch.testing.assert_close(both.squares, whole.squares)
    torch.testing.assert_close(both.products, whole.products)
    assert (both.cells, both.variation) == (whole.cells, pytest.approx(whole.variation))
    assert readout.sums(F.pad(x, (0, 3)), truth, mask).cells == whole.cells


def shifted_pair(shift: Tensor) -> tuple[Tensor, Tensor]:
    """The correlation of a smooth embedding with itself moved by voxels, and the displacement."""
    fine = GaussianFilter(3, 2.0)(torch.randn(1, 8, 32, 32, 32, generator=torch.Generator().manual_seed(3)))
    grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    places = ((grid - shift.reshape(3, 1, 1, 1)) * 2 + 1) / 32 - 1
    moved = F.grid_sample(fine, places.flip(0).movedim(0, -1)[None], padding_mode="border", align_corners=False)
    fixed, moving = ({"local": F.normalize(F.avg_pool3d(x, 2), dim=1)} for x in (fine, moved))
    return LocalCorrelation()(fixed, moving), shift.reshape(1, 3, 1, 1, 1).expand(1, 3, 32, 32, 32)


def test_it_learns_where_a_shifted_embedding_has_gone() -> None:
    readout, generator = CorrelationReadout(sigma=2.0), torch.Generator().manual_seed(0)
    shifts = torch.rand(7, 3, generator=generator) * 2 - 1
    pairs = [shifted_pair(shift) for shift in shifts]
    sums = [readout.sums(x, truth, torch.ones(1, 1, 32, 32, 32)) for x, truth in pairs[:6]]
    assert readout.solve(sum(sums[1:], start=sums[0])) > 0.8
    found = readout(pairs[6][0]).detach()[0, :, 8:24, 8:24, 8:24].flatten(1).mean(dim=1)
    torch.testing.assert_close(found, shifts[6], atol=0.25, rtol=0)


def test_weights_come_back_with_the_gaussian_that_they_belong_to() -> None:
    made, other = CorrelationReadout(sigma=1.0), CorrelationReadout(sigma=2.0)
    torch.nn.init.normal_(made.sum.weight)
    with pytest.raises(RuntimeError, match="kernel"):
        other.load_state_dict(made.state_dict())
    near, x = CorrelationReadout(sigma=1.01), features()
    near.load_state_dict(made.state_dict())
    assert torch.equal(near(x), made(x))


@pytest.mark.parametrize(("argument", "told"), [({"spatial_dims": 4}, "spatial_dims"), ({"sigma": 0.0}, "sigma")])
def test_a_bad_argument_is_named(argument: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CorrelationReadout(**argument)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_known_or_nothing_moved_cannot_be_solved(share: tuple[float, float]) -> None:
    readout, x, (truth, mask) = CorrelationReadout(), features(), known()
    with pytest.raises(ValueError, match="no displacement to learn from"):
        readout.solve(readout.sums(x, share[0] * truth, torch.full_like(mask, share[1])))
    assert not readout.is_solved
