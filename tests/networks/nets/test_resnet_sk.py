# SPDX-License-Identifier: Apache-2.0
"""SimCLRv2's network: its published size, and what goes in and out. What it computes: test_simclr_checkpoints.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_ext.networks.blocks.projection_head import ProjectionHead
from monai_ext.networks.blocks.sk_bottleneck import SKBottleneck
from monai_ext.networks.nets.resnet_sk import ResNetSK, build_resnet_sk
from monai_ext.networks.nets.simclr import SimCLR


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_it_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert count(build_resnet_sk("r50_2x_sk1")) == 140_306_048
        assert count(build_resnet_sk("r50_2x_sk1", num_classes=1000)) == 144_403_048
        assert count(ProjectionHead(4096)) == 34_095_360
    assert count(build_resnet_sk("small")) < 1e6


@pytest.mark.parametrize(("side", "grid"), [(224, 7), (512, 16)])
def test_maps_have_the_published_size(side: int, grid: int) -> None:
    with torch.device("meta"):
        network = build_resnet_sk("r50_2x_sk1").eval()
        image = torch.empty(1, 1, side, side)
        assert network.features(image).shape == (1, 4096, grid, grid)
        assert network(image).shape == (1, 4096)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_features_of_a_stage_are_the_mean_of_its_map(stage: int) -> None:
    network = build_resnet_sk("small", feature_stage=stage).eval()
    image = torch.rand(2, 1, 64, 96)
    features = network(image)
    assert features.shape == (2, network.out_channels) == (2, 32 * 2**stage)
    torch.testing.assert_close(features, network.features(image).mean(dim=(2, 3)))
    assert network.features(image).shape[2:] == (64 // 2 ** (stage + 1), 96 // 2 ** (stage + 1))


def test_a_grey_image_is_three_equal_channels() -> None:
    torch.manual_seed(0)
    grey = build_resnet_sk("small").eval()
    colour = build_resnet_sk("small", in_channels=3).eval()
    colour.load_state_dict(grey.state_dict())
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(grey(image), colour(image.repeat(1, 3, 1, 1)))


def test_an_image_in_a_batch_is_the_image_alone() -> None:
    network, image = build_resnet_sk("small").eval(), torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(network(image), torch.cat([network(each[None]) for each in image]), atol=1e-5, rtol=1e-5)


def test_two_views_are_projected_each_by_itself() -> None:
    network = SimCLR(build_resnet_sk("small")).eval()
    views = torch.rand(3, 2, 32, 32)
    first, second = network(views)
    torch.testing.assert_close(first, network.project(views[:, :1]))
    torch.testing.assert_close(second, network.project(views[:, 1:]))


def test_every_weight_but_the_last_bias_learns() -> None:
    network = SimCLR(build_resnet_sk("small")).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(2):  # blocks start as their shortcuts: what is inside has a gradient from the second step on
        optimizer.zero_grad()
        first, second = network(torch.rand(4, 2, 32, 32))
        (first - 2 * second).square().sum().backward()
        optimizer.step()
    still = {name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert still == {"head.layers.7.bias"}
    assert not network.head.layers[7].bias.any()


def test_bad_arguments_and_images_are_named() -> None:
    for knobs, told in (
        ({"base_channels": 7}, "even number, got 7"),
        ({"layers": (1, 2)}, "layers must be 4 numbers"),
        ({"in_channels": 2}, "in_channels must be 1 or 3, got 2"),
        ({"feature_stage": 5}, r"feature_stage must be in \[1, 4\], got 5"),
    ):
        with pytest.raises(ValueError, match=told):
            ResNetSK(**knobs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="teacher must be one of r50_1x_sk1, r50_2x_sk1, small, got 'r50'"):
        build_resnet_sk("r50")
    with pytest.raises(ValueError, match="without a projection in_channels must be 64 and stride 1, got 8 and 1"):
        SKBottleneck(8, 16)
    with pytest.raises(ValueError, match=r"multiples of 4, got \(30, 32\)"):
        build_resnet_sk("small")(torch.rand(2, 1, 30, 32))
    with pytest.raises(ValueError, match=r"views must be \(batch, 2, height, width\)"):
        SimCLR(build_resnet_sk("small"))(torch.rand(2, 1, 32, 32))
