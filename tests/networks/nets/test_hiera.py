# SPDX-License-Identifier: Apache-2.0
"""Our Hiera against the one of the `sam2` package: same parameters, same numbers."""

from __future__ import annotations

import copy

import pytest
import torch

from monai_ext.networks.nets.hiera import HIERA_PRESETS, HieraEncoder, build_hiera, build_sam2_trunk

# sides with and without padding: whole windows, right edge only, lower edge only, both, smaller than a window
SIZES = [(224, 224), (96, 160), (224, 96), (288, 224), (32, 32), (352, 352)]


def pair(backbone: str) -> tuple[torch.nn.Module, HieraEncoder]:
    trunk = build_sam2_trunk(backbone).eval()
    # a trained trunk has large biases; at zero the padding keys would be too easy
    for name, weight in trunk.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.5)
    return trunk, HieraEncoder(copy.deepcopy(trunk)).eval()


@pytest.mark.parametrize("size", SIZES)
def test_nano_equals_the_package_at_every_kind_of_padding(size: tuple[int, int]) -> None:
    trunk, ours = pair("nano")
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        for expected, level in zip(trunk(image), ours(image), strict=True):
            torch.testing.assert_close(level, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["tiny", "base_plus"])
def test_published_variants_equal_the_package(backbone: str) -> None:
    trunk, ours = pair(backbone)
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for expected, level in zip(trunk(image), ours(image), strict=True):
            torch.testing.assert_close(level, expected, atol=1e-4, rtol=1e-5)


def test_gradients_equal_the_package() -> None:
    trunk, ours = pair("nano")
    image = torch.randn(1, 3, 96, 160)
    sum(level.square().mean() for level in trunk(image)).backward()
    sum(level.square().mean() for level in ours(image)).backward()
    expected = dict(trunk.named_parameters())
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(
            weight.grad, expected[name.replace(".block.", ".")].grad, atol=1e-5, rtol=1e-4, msg=name
        )


def test_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(1)
    plain = build_hiera("nano", adapter_dim=4)
    torch.manual_seed(1)
    thrifty = build_hiera("nano", adapter_dim=4, use_checkpoint=True)
    image = torch.randn(1, 3, 64, 64)
    for network in (plain, thrifty):
        sum(level.square().mean() for level in network.train()(image)).backward()
    for (name, a), b in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_autocast_runs_attention_in_low_precision() -> None:
    trunk, ours = pair("nano")
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for expected, level in zip(trunk(image), ours(image), strict=True):
            torch.testing.assert_close(level.float(), expected.float(), atol=0.15, rtol=0.05)


def test_channels_follow_the_preset() -> None:
    assert tuple(build_hiera("nano").channels) == HIERA_PRESETS["nano"].channels


def test_a_size_off_the_stride_names_the_right_one() -> None:
    with pytest.raises(ValueError, match="96 x 64"):
        build_hiera("nano")(torch.rand(1, 3, 80, 64))


def test_an_unknown_backbone_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="base_plus"):
        build_hiera("huge")
