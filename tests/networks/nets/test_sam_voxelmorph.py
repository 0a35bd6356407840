# SPDX-License-Identifier: Apache-2.0
"""SAMVoxelMorph: the published numbers, the network written out, and what a displacement without folds obeys."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks.warp import Warp
from torch import Tensor

from monai_ext.networks.nets.sam_voxelmorph import SAMVoxelMorph
from tests.contracts import NetworkContract


def moving_network(**arguments: object) -> SAMVoxelMorph:
    """A small one whose untrained displacements are some voxels long."""
    few = {"encoder_channels": (4, 6, 6, 6), "decoder_channels": (6, 6, 6, 6), "final_channels": (6, 4, 4)}
    network = SAMVoxelMorph(**{"spatial_dims": 2, "use_correlation": False, **few, **arguments})  # type: ignore[arg-type]
    nn.init.normal_(network.flow.weight, std=1.0)
    return network


class WithFeatures(nn.Module):
    """Features made of the image itself, so that one tensor is enough."""

    def __init__(self) -> None:
        super().__init__()
        self.network = moving_network(use_correlation=True)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        halved = F.avg_pool2d(image[:, :1], 2, ceil_mode=True)
        return self.network(image, torch.cat([halved * (0.1 * channel) for channel in range(9)], dim=1))


class TestPlain(NetworkContract):
    key_count = 24
    some_keys = ("encoder.3.weight", "decoder.0.bias", "final.2.weight", "flow.weight")

    def build(self) -> nn.Module:
        torch.manual_seed(1)
        return moving_network()

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return torch.rand(batch, 2, height, width)

    def out_channels(self) -> int:
        return 2


class TestWithCorrelation(TestPlain):
    some_keys = ("network.encoder.1.weight", "network.flow.bias")

    def build(self) -> nn.Module:
        torch.manual_seed(1)
        return WithFeatures()


@pytest.mark.parametrize(("use_correlation", "count"), [(True, 350_659), (False, 327_331)])
def test_it_has_the_published_number_of_weights(use_correlation: bool, count: int) -> None:
    with torch.device("meta"):
        network = SAMVoxelMorph(use_correlation=use_correlation)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


def test_a_readout_has_a_weight_for_each_channel_and_axis_and_needs_the_correlation() -> None:
    with torch.device("meta"):
        network = SAMVoxelMorph(readout_sigma=4.0)
    assert sum(p.numel() for p in network.parameters()) == 350_659 + 27 * 3
    with pytest.raises(ValueError, match="use_correlation=False leaves out"):
        SAMVoxelMorph(use_correlation=False, readout_sigma=4.0)


def test_an_untrained_network_hardly_displaces() -> None:
    ddf = SAMVoxelMorph().eval()(torch.rand(1, 2, 16, 16, 16), torch.rand(1, 27, 8, 8, 8))
    assert 0 < ddf.abs().max() < 1e-3
    assert SAMVoxelMorph().flow.weight.std().item() == pytest.approx(1e-5, rel=0.1)


def by_hand(network: SAMVoxelMorph, image: Tensor, features: Tensor) -> Tensor:
    """The U-Net written out for a size that needs no padding."""
    state = network.state_dict()

    def conv(x: Tensor, name: str) -> Tensor:
        return F.leaky_relu(F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1), 0.2)

    def up(x: Tensor, skip: Tensor) -> Tensor:
        for axis in (2, 3, 4):
            x = x.repeat_interleave(2, dim=axis)
        return torch.cat([x, skip], dim=1)

    e0 = conv(image, "encoder.0")
    e1 = conv(torch.cat([F.max_pool3d(e0, 2), features], dim=1), "encoder.1")
    e2 = conv(F.max_pool3d(e1, 2), "encoder.2")
    e3 = conv(F.max_pool3d(e2, 2), "encoder.3")
    x = up(conv(F.max_pool3d(e3, 2), "decoder.0"), e3)
    x = up(conv(x, "decoder.1"), e2)
    x = up(conv(x, "decoder.2"), e1)
    x = up(conv(x, "decoder.3"), e0)
    x = conv(conv(conv(x, "final.0"), "final.1"), "final.2")
    return F.conv3d(x, state["flow.weight"], state["flow.bias"], padding=1)


def test_the_velocity_is_what_the_published_network_computes() -> None:
    network = moving_network(spatial_dims=3, use_correlation=True)
    image, features = torch.rand(2, 2, 16, 32, 16), torch.randn(2, 27, 8, 16, 8)
    torch.testing.assert_close(network.velocity(image, features), by_hand(network, image, features))


@pytest.mark.parametrize("cells", [(9, 16, 11), (10, 16, 16)])
def test_any_size_is_that_of_the_image_continued_to_whole_multiples(cells: tuple[int, ...]) -> None:
    """Cells may end with the image, or describe more, as those of an embedding padded by other multiples."""
    network = moving_network(spatial_dims=3, use_correlation=True)
    image, features = torch.rand(1, 2, 18, 32, 21), torch.randn(1, 27, *cells)
    whole = [F.pad(image, (0, 11, 0, 0, 0, 14), mode="replicate")]
    whole.append(F.pad(features, (0, 16 - cells[2], 0, 0, 0, 16 - cells[0]), mode="replicate"))
    expected = network.velocity(*whole)[:, :, :18, :, :21]
    torch.testing.assert_close(network.velocity(image, features), expected)


def waves(size: int = 48, length: float = 4.0) -> Tensor:
    """A smooth velocity that would fold if it were taken for a displacement, and stands still at the edge."""
    line = torch.linspace(0, torch.pi, size, dtype=torch.float64)
    window = line.sin()[:, None] * line.sin()
    return length * torch.stack([(4 * line).sin()[:, None] * window, (3 * line).sin() * window])[None]


def test_displacements_do_not_fold_where_velocities_would() -> None:
    ddf = moving_network().integrate(waves(length=8.0))
    folded = [bool((determinants(field) <= 0).any()) for field in (waves(length=8.0), ddf)]
    assert folded == [True, False]


def determinants(field: Tensor) -> Tensor:
    rows = field[0].diff(dim=1)[:, :, :-1]
    columns = field[0].diff(dim=2)[:, :-1]
    return (1 + rows[0]) * (1 + columns[1]) - rows[1] * columns[0]


def test_the_negative_velocity_leads_back() -> None:
    network, velocity = moving_network(), waves()
    there, back = network.integrate(velocity), network.integrate(-velocity)
    assert there.abs().max() > 2
    assert network.compose(back, there).abs().max() < 0.1


def test_a_constant_velocity_is_a_shift() -> None:
    velocity = torch.zeros(1, 2, 40, 40)
    velocity[:, 0], velocity[:, 1] = 1.5, -2.0
    ddf = moving_network().integrate(velocity)[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(ddf, velocity[:, :, 8:-8, 8:-8], atol=1e-5, rtol=0)


def test_the_displacement_leads_into_the_image_before_the_prealignment() -> None:
    """For an affine prealignment A the whole map is A(x + u(x)), voxel by voxel."""
    network, image = moving_network().eval(), torch.rand(1, 2, 32, 32)
    places = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    matrix, offset = torch.tensor([[1.1, 0.05], [-0.1, 0.9]]), torch.tensor([2.0, -1.0])

    def aligned(positions: Tensor) -> Tensor:
        return torch.einsum("ij,jyx->iyx", matrix, positions) + offset[:, None, None]

    with torch.no_grad():
        own = network(image)
        found = network(image, prealign=(aligned(places) - places)[None])
    landed = places + own[0]
    inside = ((landed >= 0) & (landed <= 31)).all(dim=0)
    assert inside.sum() > 300
    torch.testing.assert_close((places + found[0])[:, inside], aligned(landed)[:, inside], atol=1e-4, rtol=0)


def test_warping_by_the_composed_field_is_warping_twice() -> None:
    """Of an image that is linear in its place, so that interpolating twice loses nothing."""
    network = moving_network()
    places = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij"))[None]
    first, then = (F.avg_pool2d(4 * torch.randn(1, 2, 24, 24), 7, 1, 3) for _ in range(2))
    once, twice = Warp()(places, network.compose(first, then)), Warp()(Warp()(places, first), then)
    torch.testing.assert_close(once[..., 6:-6, 6:-6], twice[..., 6:-6, 6:-6], atol=1e-4, rtol=0)


def test_in_training_the_velocity_is_given_too() -> None:
    network, image = moving_network(), torch.rand(2, 2, 16, 16)
    ddf, velocity = network(image)
    torch.testing.assert_close(velocity, network.velocity(image))
    torch.testing.assert_close(ddf, network.integrate(velocity))


def test_mixed_precision_integrates_in_float32() -> None:
    network, image = moving_network(), torch.rand(1, 2, 300, 16)
    with torch.autocast("cpu", torch.bfloat16):
        ddf, velocity = network(image)
    assert (velocity.dtype, ddf.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(ddf, network.integrate(velocity.float()))


def test_a_traced_network_takes_other_sizes() -> None:
    network = moving_network(use_correlation=True).eval()
    with torch.no_grad():
        traced = torch.jit.trace(network, (torch.rand(1, 2, 32, 20), torch.rand(1, 9, 16, 10)), check_trace=False)
        image, features = torch.rand(2, 2, 19, 48), torch.rand(2, 9, 10, 24)
        torch.testing.assert_close(traced(image, features), network(image, features), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"in_channels": 3}, "in_channels must be even"),
        ({"encoder_channels": (4, 4), "decoder_channels": (4,)}, r"same length, at least 2, got \[4, 4\] and \[4\]"),
        ({"final_channels": (4, 0)}, "widths must be at least 1"),
        ({"integration_steps": 0}, "positive num_steps, got 0"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SAMVoxelMorph(**arguments)  # type: ignore[arg-type]


def test_what_does_not_fit_is_named() -> None:
    image = torch.rand(1, 2, 20, 32)
    with pytest.raises(ValueError, match="use_correlation=True needs features"):
        moving_network(use_correlation=True)(image)
    with pytest.raises(ValueError, match="use_correlation=False takes no features"):
        moving_network()(image, torch.rand(1, 9, 10, 16))
    with pytest.raises(ValueError, match=r"features must be \(1, 9, 10, 16\) to fit the image, got \(1, 9, 20, 32\)"):
        moving_network(use_correlation=True)(image, torch.rand(1, 9, 20, 32))
    with pytest.raises(ValueError, match=r"features must be \(1, 9, 10, 16\) to fit the image, got \(1, 27, 10, 16\)"):
        moving_network(use_correlation=True)(image, torch.rand(1, 27, 10, 16))
