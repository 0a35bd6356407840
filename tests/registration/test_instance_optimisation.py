# SPDX-License-Identifier: Apache-2.0
"""optimise_instance finds a known displacement, never makes the cost rise, stops and repeats itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks.warp import Warp
from torch import Tensor

from monai_ext.registration.instance_optimisation import OptimisedField, optimise_instance

SIZE, STRIDES = (32, 40), {"local_stride": (2, 2), "global_stride": (8, 8)}
LINEAR = {2: "bilinear", 3: "trilinear"}


def embedding(size: tuple[int, ...] = SIZE, channels: int = 12, detail: int = 5) -> dict[str, Tensor]:
    """Smooth unit vectors, different everywhere."""
    mode = LINEAR[len(size)]
    rough = torch.randn(1, channels, *[detail] * len(size))
    fine = F.interpolate(rough, size=[side // 2 for side in size], mode=mode, align_corners=True)
    return described(fine)


def described(fine: Tensor) -> dict[str, Tensor]:
    """Local and global embedding of one map; a global cell is 4 local ones along each axis."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[fine.ndim - 2]
    return {"local": F.normalize(fine, dim=1), "global": F.normalize(pool(fine, 4), dim=1)}


def shifted(maps: dict[str, Tensor], voxels: tuple[float, ...]) -> dict[str, Tensor]:
    """The embedding of an image in which everything lies ``voxels`` further on."""
    sides = maps["local"].shape[2:]
    field = torch.tensor(voxels).reshape(1, -1, *[1] * len(voxels)).expand(1, -1, *sides) / -2
    return described(Warp()(maps["local"], field))


def find(fixed: dict[str, Tensor], moving: dict[str, Tensor], size: tuple[int, ...], **more: object) -> OptimisedField:
    return optimise_instance(fixed, moving, size, **{**STRIDES, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("cost", ["local", "both"])
def test_a_shift_is_found(cost: str) -> None:
    fixed = embedding()
    found = find(fixed, shifted(fixed, (1.6, -2.4)), SIZE, cost=cost, iterations=120)
    inner = found.ddf[0, :, 6:-6, 6:-6].flatten(1)
    torch.testing.assert_close(inner.mean(dim=1), torch.tensor([1.6, -2.4]), atol=0.25, rtol=0)
    assert found.ddf.shape == (1, 2, *SIZE)
    assert min(found.costs) < 0.4 * found.costs[0]


def test_volumes_are_taken_too() -> None:
    size = (16, 16, 24)
    fixed = embedding(size, detail=4)
    moving, strides = shifted(fixed, (1.0, 0.0, -1.5)), {"local_stride": (2, 2, 2), "global_stride": (8, 8, 8)}
    found = optimise_instance(fixed, moving, size, **strides, iterations=100)  # type: ignore[arg-type]
    inner = found.ddf[0, :, 4:-4, 4:-4, 4:-4].flatten(1)
    torch.testing.assert_close(inner.mean(dim=1), torch.tensor([1.0, 0.0, -1.5]), atol=0.2, rtol=0)


def test_what_is_found_goes_before_the_initial_displacement() -> None:
    """The start is most of the way; what is left of it is found, and the result is the whole way."""
    fixed = embedding()
    moving, initial = shifted(fixed, (6.0, -4.0)), torch.zeros(1, 2, *SIZE)
    initial[:, 0], initial[:, 1] = 5.0, -3.0
    found = find(fixed, moving, SIZE, initial=initial, iterations=120)
    inner = found.ddf[0, :, 8:-8, 8:-8].flatten(1)
    torch.testing.assert_close(inner.mean(dim=1), torch.tensor([6.0, -4.0]), atol=0.2, rtol=0)
    assert found.costs[0] < find(fixed, moving, SIZE, iterations=1).costs[0]


def test_the_whole_way_is_right_where_the_start_stretches() -> None:
    """Fixed is moving at 0.7 (x + s), the start stretches by 0.7, and s is what is to be found."""
    shift = torch.tensor([3.0, -2.0])[:, None, None]
    cells, voxels = ([torch.arange(float(n)) for n in sides] for sides in ((16, 20), SIZE))
    centres = 2 * torch.stack(torch.meshgrid(*cells, indexing="ij")) + 0.5
    places = torch.stack(torch.meshgrid(*voxels, indexing="ij"))

    def anatomy(position: Tensor) -> dict[str, Tensor]:
        waves = [w * axis + phase for w in (0.08, 0.15, 0.21) for axis in position for phase in (0.0, torch.pi / 2)]
        return {"local": F.normalize(torch.stack(waves).sin()[None], dim=1)}

    fixed, moving = anatomy(0.7 * (centres + shift)), anatomy(centres)
    found = find(fixed, moving, SIZE, initial=(0.7 * places - places)[None], iterations=120)
    expected = 0.7 * (places + shift) - places
    torch.testing.assert_close(found.ddf[0, :, 6:-6, 6:-6], expected[:, 6:-6, 6:-6], atol=0.3, rtol=0)


def test_a_perfect_start_is_left_as_it_is() -> None:
    fixed, initial = embedding(), F.avg_pool2d(torch.randn(1, 2, *SIZE), 9, 1, 4)
    moving = fixed
    assert find(fixed, moving, SIZE, iterations=3).ddf.abs().max() < 1e-2
    cells = F.avg_pool2d(initial, 2) / 2
    matched = {"local": Warp()(fixed["local"], cells)}
    found = find(matched, fixed, SIZE, initial=initial, iterations=3)
    torch.testing.assert_close(found.ddf, initial, atol=1e-2, rtol=0)


def test_the_result_is_no_worse_than_the_start_at_any_learning_rate() -> None:
    """Steps of five cells make everything worse; then nothing is changed."""
    fixed = embedding()
    found = find(fixed, fixed, SIZE, learning_rate=5.0, iterations=5)
    assert max(found.costs) > found.costs[0] + 0.01
    torch.testing.assert_close(found.ddf, torch.zeros_like(found.ddf), atol=1e-6, rtol=0)


def test_it_stops_when_nothing_improves() -> None:
    fixed = embedding()
    assert len(find(fixed, fixed, SIZE, iterations=50, patience=4).costs) == 5
    assert len(find(fixed, shifted(fixed, (2.0, 0.0)), SIZE, iterations=6).costs) == 7


def test_a_stiffer_field_is_smoother() -> None:
    fixed, moving = embedding(), embedding()
    rough, stiff = (find(fixed, moving, SIZE, lambda_reg=weight).ddf for weight in (0.01, 10.0))
    assert stiff.diff(dim=2).square().mean() < 0.2 * rough.diff(dim=2).square().mean()


def test_it_gives_the_same_again_and_asks_for_no_random_numbers() -> None:
    fixed, moving = embedding(), embedding()
    state = torch.get_rng_state()
    first = find(fixed, moving, SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    second = find(fixed, moving, SIZE)
    assert torch.equal(first.ddf, second.ddf)
    assert first.costs == second.costs


@pytest.mark.parametrize("size", [(31, 40), (25, 33)])
def test_cells_that_describe_padding_do_not_matter(size: tuple[int, int]) -> None:
    fixed, moving = embedding(), embedding()
    found = find(fixed, moving, size)
    assert found.ddf.shape == (1, 2, *size)
    own = (..., slice((size[0] + 1) // 2), slice((size[1] + 1) // 2))
    alone = find({"local": fixed["local"][own]}, {"local": moving["local"][own]}, size)
    torch.testing.assert_close(found.ddf, alone.ddf)


def test_it_works_on_what_was_made_without_gradient_and_in_half_precision() -> None:
    with torch.inference_mode():
        fixed, moving = ({name: x.half() for name, x in embedding().items()} for _ in range(2))
        found = find(fixed, moving, SIZE, initial=torch.ones(1, 2, *SIZE), iterations=5)
    assert min(found.costs) < found.costs[0]
    assert found.ddf.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"cost": "global"}, "cost must be one of local, both, got 'global'"),
        ({"iterations": 0}, "iterations must be positive, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"lambda_reg": -1.0}, "lambda_reg must be at least 0, got -1"),
        ({"size": (32, 44)}, r"local must have \(16, 22\) cells for an image of \(32, 44\)"),
        ({"size": (32, 40, 8)}, "must have as many axes"),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, object], told: str) -> None:
    fixed = embedding()
    with pytest.raises(ValueError, match=told):
        find(fixed, fixed, **{"size": SIZE, **arguments})  # type: ignore[arg-type]
