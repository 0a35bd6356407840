# SPDX-License-Identifier: Apache-2.0
"""Three channels for pretrained encoders."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.layers.pixels import build_stem, check_channels, pixel_statistics, three_channels


def test_one_channel_is_repeated_and_three_pass() -> None:
    grey, colour = torch.rand(2, 1, 4, 5), torch.rand(2, 3, 4, 5)
    assert build_stem(1) is None
    assert build_stem(3) is None
    assert torch.equal(three_channels(grey, None), grey.repeat(1, 3, 1, 1))
    assert torch.equal(three_channels(colour, None), colour)


def test_other_numbers_start_as_the_mean_and_train() -> None:
    image = torch.rand(2, 5, 4, 4)
    stem = build_stem(5)
    torch.testing.assert_close(three_channels(image, stem), image.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert all(weight.requires_grad for weight in stem.parameters())


def test_statistics_are_broadcast_over_images() -> None:
    mean, std = pixel_statistics((1, 2, 3), (4, 5, 6))
    assert mean.shape == std.shape == (1, 3, 1, 1)
    assert (mean.flatten().tolist(), std.flatten().tolist()) == ([1, 2, 3], [4, 5, 6])


@pytest.mark.parametrize(("mean", "std"), [((0,), (1, 1, 1)), ((0, 0, 0), (1, 1)), ((0, 0, 0), (1, 0, 1))])
def test_wrong_statistics_are_named(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="pixel_std"):
        pixel_statistics(mean, std)


def test_wrong_images_are_named() -> None:
    with pytest.raises(ValueError, match="in_channels must be at least 1"):
        build_stem(0)
    with pytest.raises(ValueError, match="set in_channels"):
        check_channels(torch.rand(1, 2, 4, 4), 3)
    with pytest.raises(ValueError, match="set in_channels"):
        check_channels(torch.rand(3, 4, 4), 3)
