# SPDX-License-Identifier: Apache-2.0
"""The residual block computes what its figure says, whole or in shares."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.blocks.se_res_block import SEResBlock


def normed(x: Tensor) -> Tensor:
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + 1e-5)


def naive(block: SEResBlock, x: Tensor) -> Tensor:
    """The figure, step by step, from the weights alone."""
    weight = dict(block.named_parameters())
    hidden = F.leaky_relu(normed(F.conv2d(x, weight["conv1.conv.weight"], padding=1)), 0.01)
    hidden = normed(F.conv2d(hidden, weight["conv2.conv.weight"], padding=1))
    gate = F.relu(hidden.mean((2, 3)) @ weight["se.fc.0.weight"].T) @ weight["se.fc.2.weight"].T
    hidden = hidden * torch.sigmoid(gate)[..., None, None]
    projected = normed(F.conv2d(x, weight["conv3.conv.weight"]))
    return F.leaky_relu(hidden + (x if block.in_channels == hidden.shape[1] else projected), 0.01)


@pytest.mark.parametrize(("channels", "out_channels"), [(20, 16), (32, 32)])
def test_it_equals_its_figure(channels: int, out_channels: int) -> None:
    block, x = SEResBlock(channels, out_channels).double(), torch.randn(2, channels, 5, 7).double()
    before = x.clone()
    torch.testing.assert_close(block(x), naive(block, x), atol=1e-10, rtol=1e-10)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("channels", "out_channels"), [(20, 16), (32, 32)])
def test_names_are_the_published_ones(channels: int, out_channels: int) -> None:
    state = SEResBlock(channels, out_channels).state_dict()
    assert {name: tuple(weight.shape) for name, weight in state.items()} == {
        "conv1.conv.weight": (out_channels, channels, 3, 3),
        "conv2.conv.weight": (out_channels, out_channels, 3, 3),
        "conv3.conv.weight": (out_channels, channels, 1, 1),
        "se.fc.0.weight": (out_channels // 16, out_channels),
        "se.fc.2.weight": (out_channels, out_channels // 16),
    }


def test_shares_of_the_channels_add_up_to_the_whole() -> None:
    block, x = SEResBlock(48, 16).double(), torch.randn(3, 48, 5, 5).double()
    x[:, 20:] = x[:1, 20:]
    parts = [block.share(x[:, :8]), block.share(x[:, 8:20], first=8), block.share(x[:1, 20:], first=20)]
    torch.testing.assert_close(block.join(*parts), block(x), atol=1e-10, rtol=1e-10)


def test_gradient_is_the_same_in_shares() -> None:
    block, x = SEResBlock(24, 16).double(), torch.randn(2, 24, 4, 4).double()
    weights = list(block.parameters())
    whole = torch.autograd.grad(block(x).square().sum(), weights)
    joined = block.join(block.share(x[:, :8]), block.share(x[:, 8:], first=8))
    torch.testing.assert_close(torch.autograd.grad(joined.square().sum(), weights), whole)


def test_training_and_evaluation_compute_the_same_and_remember_nothing() -> None:
    block, x = SEResBlock(8, 16), torch.randn(2, 8, 4, 4)
    state = {name: weight.clone() for name, weight in block.state_dict().items()}
    torch.testing.assert_close(block.train()(x), block.eval()(x), atol=0, rtol=0)
    assert list(block.buffers()) == []
    assert all(torch.equal(weight, state[name]) for name, weight in block.state_dict().items())


def test_only_an_unused_projection_is_frozen() -> None:
    assert [name for name, weight in SEResBlock(16, 16).named_parameters() if not weight.requires_grad] == [
        "conv3.conv.weight"
    ]
    assert all(weight.requires_grad for weight in SEResBlock(8, 16).parameters())


def test_wrong_channels_are_named() -> None:
    with pytest.raises(ValueError, match=r"at least 16.*got 15"):
        SEResBlock(4, 15)
    with pytest.raises(ValueError, match="24 input channels, got number 20 to 27"):
        SEResBlock(24, 16).share(torch.rand(1, 8, 4, 4), first=20)
    with pytest.raises(ValueError, match="takes it whole"):
        SEResBlock(16, 16).share(torch.rand(1, 8, 4, 4))
