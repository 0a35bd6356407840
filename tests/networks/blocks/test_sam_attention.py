# SPDX-License-Identifier: Apache-2.0
"""Our attention and block against those of the `segment-anything` package."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from segment_anything.modeling.image_encoder import Block

from monai_ext.networks.blocks import sam_attention
from monai_ext.networks.blocks.sam_block import SAMBlock
from monai_ext.networks.layers.lora import inject_lora

# window, grid: whole windows, padding on the right, below, on both, a grid smaller than a window, global, one column
GRIDS = [(4, (8, 8)), (4, (8, 6)), (4, (5, 8)), (4, (7, 9)), (5, (3, 4)), (0, (6, 6)), (0, (3, 5)), (0, (7, 1))]


def pair(window: int, grid: tuple[int, int], dim: int = 12, heads: int = 3) -> tuple[Block, SAMBlock]:
    """The published block with random positions and biases (they are zero at first), and ours with the same."""
    block = Block(dim, heads, use_rel_pos=True, window_size=window, input_size=grid).eval()
    for name, weight in block.named_parameters():
        if "rel_pos" in name or "bias" in name:
            nn.init.normal_(weight)
    return block, SAMBlock(copy.deepcopy(block)).eval()


@pytest.mark.parametrize(("window", "grid"), GRIDS)
def test_a_block_equals_the_package(window: int, grid: tuple[int, int]) -> None:
    published, ours = pair(window, grid)
    tokens = torch.randn(2, *grid, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), published(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("window", "grid"), GRIDS)
def test_all_gradients_equal_the_package(window: int, grid: tuple[int, int]) -> None:
    published, ours = (block.double() for block in pair(window, grid))
    tokens, direction = torch.randn(2, 2, *grid, 12, dtype=torch.float64)
    tokens.requires_grad_()
    results = []
    for block in (published, ours):
        wanted = {"tokens": tokens, **dict(block.named_parameters())}
        results.append(torch.autograd.grad((block(tokens) * direction).sum(), list(wanted.values())))
    for name, a, b in zip(wanted, *results, strict=True):
        torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("band", [sam_attention.BAND, 8])
@pytest.mark.parametrize(("window", "grid"), GRIDS)
def test_a_trace_equals_the_block_for_any_batch(
    window: int, grid: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_attention, "BAND", band)  # at its own size, none of these grids is cut into bands
    _, block = pair(window, grid)
    traced = torch.jit.trace(block, torch.randn(1, *grid, 12), check_trace=False)
    tokens = torch.randn(3, *grid, 12)
    with torch.no_grad():
        torch.testing.assert_close(traced(tokens), block(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "bands"), [(4, 1), (14, 1), (19, 1), (20, 2), (32, 8), (64, 8)])
def test_a_recorded_graph_has_no_more_copies_than_its_memory_needs(side: int, bands: int) -> None:
    assert -(-side // sam_attention._band(side, side)) == bands


def test_parameters_keep_their_names_and_identity() -> None:
    published = pair(4, (6, 6))[0]
    expected = {name: id(weight) for name, weight in published.named_parameters()}
    assert {name: id(weight) for name, weight in SAMBlock(published).named_parameters()} == expected


def test_heads_of_eighty_channels_equal_the_package() -> None:
    published, ours = pair(4, (6, 6), dim=160, heads=2)
    tokens = torch.randn(1, 6, 6, 160)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), published(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [5, 9])
def test_a_grid_unlike_the_table_resizes_it_as_the_package_does(size: int) -> None:
    published, ours = pair(0, (6, 6))
    tokens = torch.randn(1, size, size, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), published(tokens), atol=1e-5, rtol=1e-5)


def test_a_replaced_projection_is_called() -> None:
    published, ours = pair(4, (6, 6))
    names = [inject_lora(block, rank=2) for block in (published, ours)]
    for layer in (published.attn.qkv, ours.attn.qkv):
        nn.init.constant_(layer.lora_q_up, 0.1)
        nn.init.constant_(layer.lora_q_down, 0.2)
    tokens = torch.randn(1, 6, 6, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), published(tokens), atol=1e-5, rtol=1e-5)
    assert names == [["attn.qkv"]] * 2


def test_padding_is_not_projected() -> None:
    _, block = pair(4, (6, 6))
    seen: list[int] = []
    block.attn.qkv.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][..., 0].numel()))
    block(torch.randn(2, 6, 6, 12))
    assert sorted(seen) == [1, 2 * 6 * 6]  # all real tokens, and one zero that stands for the padding


@pytest.mark.parametrize("grad", [False, True])
def test_bfloat16_is_as_near_as_the_package(grad: bool) -> None:
    published, ours = pair(4, (7, 9))
    tokens = torch.randn(2, 7, 9, 12)
    exact = published(tokens)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        error, own = ((block(tokens) - exact).norm() for block in (ours, published))
    assert error <= 1.5 * own + 1e-3


def test_gradients_under_autocast_are_near_those_in_float32() -> None:
    _, block = pair(4, (6, 6))
    tokens, direction = torch.randn(2, 1, 6, 6, 12)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = block(tokens)
        results.append(torch.autograd.grad((out * direction).sum(), list(block.parameters())))
    for exact, low in zip(*results, strict=True):
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, exact, atol=0.05 * exact.abs().max().item(), rtol=0.05)


def test_attention_without_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="use_rel_pos=True"):
        SAMBlock(Block(dim=8, num_heads=2, use_rel_pos=False))


@pytest.mark.parametrize("window", [0, 4])
def test_the_hidden_channels_are_held_once_where_no_gradient_needs_them(window: int) -> None:
    """The block's result stays what the package's is, and its input what it was."""
    published, block = pair(window, (7, 9))
    tokens = torch.randn(2, 7, 9, 12)
    kept, held = tokens.clone(), []
    block.mlp.lin1.register_forward_hook(lambda _, __, hidden: held.append(hidden))
    block.mlp.lin2.register_forward_pre_hook(lambda _, inputs: held.append(inputs[0]))
    with torch.no_grad():
        torch.testing.assert_close(block(tokens), published(tokens), atol=1e-5, rtol=1e-5)
    assert held[0].data_ptr() == held[1].data_ptr()
    assert torch.equal(tokens, kept)
    held.clear()
    block(tokens)
    assert held[0].data_ptr() != held[1].data_ptr()
