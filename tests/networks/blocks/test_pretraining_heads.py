# SPDX-License-Identifier: Apache-2.0
"""Heads of stage 1: what they make of an embedding, and their known sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_ext.networks.blocks.denoising_decoder import DenoisingDecoder
from monai_ext.networks.blocks.grid_head import GridHead
from monai_ext.networks.blocks.pooled_head import PooledHead
from monai_ext.networks.blocks.selective_kernel import SelectiveKernel


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_they_have_the_known_number_of_parameters() -> None:
    assert count(PooledHead(256, 4096)) == 1_052_672
    assert count(GridHead(256, 1024)) == 263_168


def test_the_pooled_head_sees_no_places() -> None:
    head, embedding = PooledHead(8, 5), torch.randn(2, 8, 3, 4)
    shuffled = embedding.flatten(2)[..., torch.randperm(12)].unflatten(2, (3, 4))
    torch.testing.assert_close(head(shuffled), head(embedding))
    torch.testing.assert_close(head(embedding), embedding.mean(dim=(2, 3)) @ head.linear.weight.T + head.linear.bias)


def test_the_grid_head_sees_each_place_alone_where_grids_agree() -> None:
    head, embedding = GridHead(8, 5, grid=4), torch.randn(2, 8, 4, 4)
    changed = embedding.clone()
    changed[:, :, 1, 2] += 1
    places = (head(changed) != head(embedding)).any(dim=1).any(dim=0).nonzero().tolist()
    assert places == [[1, 2]]


@pytest.mark.parametrize("side", [2, 7, 32])
def test_the_grid_head_keeps_a_ramp_a_ramp(side: int) -> None:
    head = GridHead(1, 1, grid=14)
    nn.init.ones_(head.project.weight)
    nn.init.zeros_(head.project.bias)  # type: ignore[arg-type]
    centres = (torch.arange(side) + 0.5) / side
    found = head(centres.reshape(1, 1, 1, side).expand(1, 1, side, side))[0, 0, 7]
    border = 7 // side + 1  # beyond the outermost centres bilinear repeats them
    inner = slice(border, -border)
    torch.testing.assert_close(found[inner], ((torch.arange(14) + 0.5) / 14)[inner], atol=1e-5, rtol=0)


def test_the_decoder_gives_sixteen_pixels_a_cell_and_any_number_of_channels() -> None:
    decoder = DenoisingDecoder(out_channels=3, channels=(32, 16, 8, 8, 8))
    assert decoder(torch.randn(2, 32, 3, 5)).shape == (2, 3, 48, 80)


def test_the_decoder_depends_on_no_other_image_of_the_batch() -> None:
    decoder, embedding = DenoisingDecoder(channels=(16, 8, 8, 8, 8)).train(), torch.randn(3, 16, 2, 2)
    alone = torch.cat([decoder(each[None]) for each in embedding])
    torch.testing.assert_close(decoder(embedding), alone, atol=1e-5, rtol=1e-5)


def test_the_decoder_has_a_linear_output() -> None:
    decoder = DenoisingDecoder(channels=(16, 8, 8))
    nn.init.constant_(decoder.to_image.bias, -3.0)  # type: ignore[arg-type]
    nn.init.zeros_(decoder.to_image.weight)
    assert (decoder(torch.randn(1, 16, 4, 4)) == -3).all()


def test_the_decoder_takes_another_normalisation() -> None:
    kinds = {type(part) for part in DenoisingDecoder(channels=(16, 8), norm="batch").modules()}
    assert nn.BatchNorm2d in kinds
    assert nn.GroupNorm not in kinds


def test_a_selective_kernel_with_equal_weights_is_the_mean_of_its_branches() -> None:
    block = SelectiveKernel(4).eval()
    nn.init.zeros_(block.select.weight)
    x = torch.randn(1, 4, 5, 5)
    first, second = torch.relu(block.branches(x)).chunk(2, dim=1)
    torch.testing.assert_close(block(x), (first + second) / 2)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="alignment must be one of bilinear, bicubic, nearest, area, got 'cubic'"):
        GridHead(alignment="cubic")
    with pytest.raises(ValueError, match=r"at least one more, got \[256\]"):
        DenoisingDecoder(channels=(256,))
