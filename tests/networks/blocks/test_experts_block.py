# SPDX-License-Identifier: Apache-2.0
"""A block with experts against one published block for each: same numbers, and what they share computed once."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from segment_anything.modeling.image_encoder import Block
from torch import Tensor

from monai_ext.networks.blocks.experts_block import ExpertsBlock
from monai_ext.networks.blocks.hl_attention import HLAttention
from monai_ext.networks.blocks.sam_block import SAMBlock
from monai_ext.networks.layers.lora_experts import LoRAExpertsQKV, inject_experts

NAMES = ("image", "patch", "pixel")
# window, grid: padding on both sides, whole windows, global, a grid smaller than a window
GRIDS = [(4, (7, 9)), (4, (8, 8)), (0, (3, 5)), (5, (3, 4))]


def pair(window: int, grid: tuple[int, int], trained: bool = True) -> tuple[Block, ExpertsBlock]:
    """The published block with random positions and biases, and ours with the same and three experts."""
    block = Block(12, 3, use_rel_pos=True, window_size=window, input_size=grid).eval().requires_grad_(False)
    for name, weight in block.named_parameters():
        if "rel_pos" in name or "bias" in name:
            nn.init.normal_(weight)
    ours = ExpertsBlock(copy.deepcopy(block)).eval()
    inject_experts(ours, NAMES, rank=2, alpha=3.0)
    for name, weight in ours.named_parameters():
        if trained and "lora_" in name:
            nn.init.normal_(weight, std=0.5)
    return block, ours


def merged(published: Block, ours: ExpertsBlock, name: str) -> Block:
    """The published block with one expert in its weight."""
    block, layer = copy.deepcopy(published), ours.attn.qkv
    assert isinstance(layer, LoRAExpertsQKV)
    block.attn.qkv.weight += layer.scale * layer.factors(name).change().detach()
    return block


def fusion(**knobs: bool | int) -> HLAttention:
    return HLAttention(**{"dim": 12, "num_heads": 3, "zero_init": False, **knobs})  # type: ignore[arg-type]


@pytest.mark.parametrize(("window", "grid"), GRIDS)
def test_each_variant_is_a_published_block(window: int, grid: tuple[int, int]) -> None:
    published, ours = pair(window, grid)
    tokens = torch.randn(2, *grid, 12)
    with torch.no_grad():
        results = list(ours.variants(tokens, ("pixel", None, "image")))
        outputs = [merged(published, ours, name)(tokens) for name in ("pixel", "image")]
        expected = [outputs[0], published(tokens), outputs[1]]
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-5)
    assert (results[2] - results[0]).abs().max() > 1e-2


@pytest.mark.parametrize(("window", "grid"), GRIDS)
@pytest.mark.parametrize("signal", ["full", "delta"])
def test_fused_is_the_formula_over_published_blocks(window: int, grid: tuple[int, int], signal: str) -> None:
    published, ours = pair(window, grid)
    tokens, hl = torch.randn(2, *grid, 12), fusion()
    with torch.no_grad():
        plain = published(tokens)
        outputs = [merged(published, ours, name)(tokens) for name in NAMES]
        signals = outputs if signal == "full" else [output - plain for output in outputs]
        expected = plain + hl(signals[::-1])
        torch.testing.assert_close(ours.fused(tokens, NAMES, hl, signal), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("window", "grid"), GRIDS)
def test_the_plain_variant_is_our_plain_block_bit_for_bit(window: int, grid: tuple[int, int]) -> None:
    published, ours = pair(window, grid)
    plain, tokens = SAMBlock(published), torch.randn(2, *grid, 12)
    start = HLAttention(dim=12, num_heads=3)
    with torch.no_grad():
        assert torch.equal(next(ours.variants(tokens, (None,))), plain(tokens))
        for signal in ("full", "delta"):
            assert torch.equal(ours.fused(tokens, NAMES, start, signal), plain(tokens))


def test_the_change_of_untrained_experts_is_exactly_nothing_whatever_the_fusion() -> None:
    published, ours = pair(4, (7, 9), trained=False)
    tokens = torch.randn(2, 7, 9, 12)
    with torch.no_grad():
        assert torch.equal(ours.fused(tokens, NAMES, fusion(), "delta"), SAMBlock(published)(tokens))
        assert not torch.equal(ours.fused(tokens, NAMES, fusion(), "full"), SAMBlock(published)(tokens))


def test_what_is_selected_makes_no_difference_to_variants() -> None:
    _, ours = pair(4, (7, 9))
    tokens = torch.randn(1, 7, 9, 12)
    with torch.no_grad():
        expected = list(ours.variants(tokens, NAMES))
        ours.attn.qkv.select("patch")  # type: ignore[operator, union-attr]
        assert all(torch.equal(a, b) for a, b in zip(ours.variants(tokens, NAMES), expected, strict=True))
        torch.testing.assert_close(ours(tokens), expected[1], atol=1e-5, rtol=1e-5)


def test_norm_and_frozen_projection_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair(0, (3, 5))
    norms: list[Tensor] = []
    calls: list[torch.Size] = []
    ours.norm1.register_forward_hook(lambda _, __, output: norms.append(output))
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *given: calls.append(given[1].shape) or linear(*given))
    ours.fused(torch.randn(1, 3, 5, 12), NAMES, fusion())
    assert (len(norms), calls.count(torch.Size([36, 12]))) == (1, 1)


def test_gradients_are_those_of_published_blocks() -> None:
    published, ours = (block.double() for block in pair(4, (5, 6)))
    hl, direction = fusion().double(), torch.randn(1, 5, 6, 12, dtype=torch.float64)
    tokens = torch.randn(1, 5, 6, 12, dtype=torch.float64, requires_grad=True)
    expected = published(tokens) + hl([merged(published, ours, name)(tokens) for name in NAMES[::-1]])
    results = [
        torch.autograd.grad((output * direction).sum(), [tokens, *hl.parameters()])
        for output in (expected, ours.fused(tokens, NAMES, hl))
    ]
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("window", "grid"), GRIDS)
def test_a_recorded_block_equals_the_block_for_any_batch(window: int, grid: tuple[int, int]) -> None:
    _, ours = pair(window, grid)

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.hl = ours, fusion(window_size=window)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.block.fused(tokens, NAMES, self.hl)

    network, tokens = Fused().eval(), torch.randn(3, *grid, 12)
    traced = torch.jit.trace(network, torch.randn(2, *grid, 12), check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(traced(tokens), network(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("signal", ["full", "delta"])
def test_a_compiled_block_equals_the_block(signal: str) -> None:
    _, ours = pair(4, (7, 9))
    hl, tokens = fusion(), torch.randn(2, 7, 9, 12)
    compiled = torch.compile(lambda x: ours.fused(x, NAMES, hl, signal), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens), ours.fused(tokens, NAMES, hl, signal), atol=1e-5, rtol=1e-5)


def test_names_of_the_frozen_weights_stay() -> None:
    published, ours = pair(4, (7, 9))
    assert [name for name in ours.state_dict() if "lora_" not in name] == list(published.state_dict())


def test_what_cannot_be_is_named() -> None:
    _, ours = pair(0, (3, 5))
    tokens = torch.randn(1, 3, 5, 12)
    with pytest.raises(ValueError, match="full, delta, got 'sum'"):
        ours.fused(tokens, NAMES, fusion(), "sum")
    with pytest.raises(ValueError, match="got 'liver'"):
        next(ours.variants(tokens, ("liver",)))
    with pytest.raises(ValueError, match="Linear without experts"):
        next(ExpertsBlock(Block(12, 3, use_rel_pos=True, input_size=(3, 5))).variants(tokens, (None,)))
