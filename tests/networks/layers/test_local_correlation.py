# SPDX-License-Identifier: Apache-2.0
"""LocalCorrelation against loops over cells, whatever the slabs, the precision and whether a gradient is kept."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from monai_ext.networks.layers.local_correlation import LocalCorrelation

SIZES = {2: ((8, 12), (2, 3)), 3: ((4, 8, 6), (2, 1, 3))}  # local and global cells


def embedding(axes: int, batch: int = 2, channels: int = 5, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    names = zip(("local", "global"), SIZES[axes], strict=True)
    return {name: F.normalize(torch.randn(batch, channels, *s, dtype=dtype), dim=1) for name, s in names}


def naive(fixed: Tensor, moving: Tensor) -> Tensor:
    """Cell by cell and step by step, with positions clamped to the grid."""
    axes, sides = fixed.ndim - 2, fixed.shape[2:]
    maps = torch.zeros(len(fixed), 3**axes, *sides, dtype=fixed.dtype)
    for cell in product(*map(range, sides)):
        for step in product((-1, 0, 1), repeat=axes):
            there = [min(max(c + d, 0), n - 1) for c, d, n in zip(cell, step, sides, strict=True)]
            channel = sum((d + 1) * 3 ** (axes - 1 - axis) for axis, d in enumerate(step))
            maps[(slice(None), channel, *cell)] = (fixed[(..., *cell)] * moving[(..., *there)]).sum(dim=1)
    return maps


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("slab_mb", [1e-9, 0.0005, 0.002, 100.0])
def test_it_equals_the_definition_cell_by_cell(axes: int, align_corners: bool, slab_mb: float) -> None:
    fixed, moving = embedding(axes), embedding(axes)
    coarse = naive(fixed["global"], moving["global"])
    mode = {2: "bilinear", 3: "trilinear"}[axes]
    resized = F.interpolate(coarse, size=SIZES[axes][0], mode=mode, align_corners=align_corners)
    found = LocalCorrelation(align_corners, slab_mb)(fixed, moving)
    torch.testing.assert_close(found, naive(fixed["local"], moving["local"]) + resized, atol=1e-12, rtol=0)


def test_without_global_embeddings_it_is_the_local_part() -> None:
    fixed, moving = ({"local": embedding(3)["local"]} for _ in range(2))
    torch.testing.assert_close(LocalCorrelation()(fixed, moving), naive(fixed["local"], moving["local"]))


@pytest.mark.parametrize("trained", [False, True])
def test_centered_it_lacks_what_the_channels_of_a_cell_share(trained: bool) -> None:
    fixed, moving = embedding(3), embedding(3)
    fixed["local"].requires_grad_(trained)
    plain, centered = (LocalCorrelation(center=center)(fixed, moving) for center in (False, True))
    torch.testing.assert_close(centered, plain - plain.mean(dim=1, keepdim=True))


@pytest.mark.parametrize(("step", "channel"), [((-1, 0, 0), 4), ((0, 0, 0), 13), ((0, 0, 1), 14), ((1, -1, 1), 20)])
def test_a_shifted_embedding_is_found_in_the_channel_of_its_shift(step: tuple[int, ...], channel: int) -> None:
    fixed = F.normalize(torch.randn(1, 16, 6, 7, 8), dim=1)
    moving = fixed.roll(step, dims=(2, 3, 4))
    inner = LocalCorrelation()({"local": fixed}, {"local": moving})[:, :, 1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(inner[:, channel], torch.ones_like(inner[:, channel]))
    assert (inner.argmax(dim=1) == channel).all()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_summed_in_float32(half: torch.dtype) -> None:
    fixed, moving = ({name: x.to(half) for name, x in embedding(3, channels=64).items()} for _ in range(2))
    expected = LocalCorrelation()(*({name: x.float() for name, x in maps.items()} for maps in (fixed, moving)))
    with torch.autocast("cpu", torch.bfloat16):
        found = LocalCorrelation()(fixed, moving)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("trained", ["local", "global"])
def test_the_gradient_of_either_embedding_is_right(trained: str) -> None:
    fixed, moving = embedding(2, batch=1, channels=2), embedding(2, batch=1, channels=2)

    def correlate(ours: Tensor, theirs: Tensor) -> Tensor:
        return LocalCorrelation()({**fixed, trained: ours}, {**moving, trained: theirs})

    leaves = [maps[trained].clone().requires_grad_() for maps in (fixed, moving)]
    assert torch.autograd.gradcheck(correlate, leaves)
    torch.testing.assert_close(correlate(*leaves).detach(), correlate(fixed[trained], moving[trained]))


class Allocations(TorchDispatchMode):
    """Sizes of all storages that operations touch, by address."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(named or {}))
        self.sizes[result.untyped_storage().data_ptr()] = result.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("planes", [10, 40])
def test_memory_beside_the_result_is_that_of_a_slab(planes: int) -> None:
    fixed, moving = (torch.rand(1, 64, planes, 8, 8) for _ in range(2))
    with Allocations() as seen:
        maps = LocalCorrelation(slab_mb=64 * 8 * 8 * 4 / 1e6)({"local": fixed}, {"local": moving})
    known = {x.untyped_storage().data_ptr() for x in (fixed, moving, maps)}
    # a plane and one on each side, a cell wider on all sides
    assert max(size for address, size in seen.sizes.items() if address not in known) == 64 * 3 * 10 * 10 * 4


def test_what_does_not_fit_is_named() -> None:
    fixed, moving = embedding(3), embedding(3)
    with pytest.raises(ValueError, match="of both images or of none"):
        LocalCorrelation()(fixed, {"local": moving["local"]})
    with pytest.raises(ValueError, match=r"local must be .* got \(2, 5, 4, 8, 6\) and \(2, 5, 4, 8, 5\)"):
        LocalCorrelation()(fixed, {**moving, "local": moving["local"][..., :5]})
    with pytest.raises(ValueError, match="slab_mb must be positive, got 0"):
        LocalCorrelation(slab_mb=0)
