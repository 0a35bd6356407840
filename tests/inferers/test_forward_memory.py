# SPDX-License-Identifier: Apache-2.0
"""The foretold memory against memory counted by hand."""

from __future__ import annotations

from math import ceil

import pytest
import torch
import torch.nn as nn

from monai_ext.inferers._forward_memory import ROOM, ForwardMemory
from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d


def foretold(network: nn.Module, channels: int, block: tuple[int, ...], channels_last: bool = False) -> ForwardMemory:
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    run = lambda shape: network(torch.empty(shape, memory_format=layout))  # noqa: E731
    return ForwardMemory(run, channels, block, channels_last)


def test_tensors_are_counted_as_long_as_they_are_needed() -> None:
    def run(shape: tuple[int, ...]) -> torch.Tensor:
        image = torch.zeros(shape)
        kept = image.double()  # 4 + 8
        for _ in range(3):
            product = kept * 2  # 4 + 8 + 8, the last product gone but for the moment in which the next one is made
            del product
        return kept

    assert ForwardMemory(run, 1, (4, 4)).bytes_of((64, 64)) == ceil(ROOM * 20 * 64 * 64)


def test_convolutions_of_large_images_make_copies_in_blocks_of_channels() -> None:
    """The image of 20 channels, the result of 24, and both again with 32."""
    memory = foretold(nn.Conv3d(20, 24, 3, stride=2, padding=1), 20, (4, 4, 4))
    voxels = 64**3
    counted = 4 * (voxels * (20 + 32) + voxels / 8 * (24 + 32) + 20 * 24 * 27)
    assert memory.bytes_of((64, 64, 64)) == pytest.approx(ROOM * counted, rel=1e-6)


def test_where_channels_come_last_nothing_but_the_kernel_is_copied() -> None:
    memory = foretold(nn.Conv3d(20, 24, 3, stride=2, padding=1), 20, (4, 4, 4), channels_last=True)
    voxels = 64**3
    counted = 4 * (voxels * 20 + voxels / 8 * 24 + 20 * 24 * 27)
    assert memory.bytes_of((64, 64, 64)) == pytest.approx(ROOM * counted, rel=1e-6)


def test_convolutions_of_small_images_unfold_a_copy_of_them() -> None:
    memory = foretold(nn.Conv3d(8, 4, 3, padding=1), 8, (2, 2, 2))
    assert memory.bytes_of((8, 8, 8)) == pytest.approx(ROOM * 4 * 8**3 * (8 + 4 + 8 + 8 * 27), rel=1e-5)


def test_what_has_a_size_of_its_own_does_not_grow_with_the_image() -> None:
    memory = ForwardMemory(lambda shape: torch.zeros(shape) * torch.ones(10_000)[:1], 1, (4, 4))
    assert memory.bytes_of((100, 100)) == ceil(ROOM * (40_000 + 8 * 100 * 100))


def test_the_published_network_takes_two_maps_of_its_first_stage_and_the_image() -> None:
    """64 channels, float32: what the stem's convolution and its normalisation give."""
    memory = foretold(ResNetFPN3d().eval(), 1, (4, 16, 16), channels_last=True)
    shape = (64, 96, 96)
    assert memory.bytes_of(shape) == pytest.approx(ROOM * 4 * (64 + 64 + 1) * 64 * 96 * 96, rel=0.01)


def test_a_network_that_does_other_things_with_another_size_is_refused() -> None:
    def run(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(shape[2:]).expand(2, *shape[2:]) if shape[2] > 8 else torch.zeros(shape)

    with pytest.raises(ValueError, match=r"other things with images of \(8, 4\) and \(16, 4\) voxels"):
        ForwardMemory(run, 1, (4, 4))
