# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates: choice of blocks, folding and back, files of their own, and what may run them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.layers.lora import (
    LoRAQKV,
    fold_lora,
    inject_lora,
    load_lora_state,
    lora_state,
    merge_lora,
    unfold_lora,
)


class Attention(nn.Module):
    """Just enough of a transformer block to be adapted."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.qkv(tokens).unflatten(-1, (3, -1)).mean(dim=-2)


class Encoder(nn.Module):
    """Blocks under the names that Segment Anything gives them."""

    def __init__(self, depth: int = 3, dim: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": Attention(dim)}) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block["attn"](tokens)
        return tokens


def adapted(rank: int = 2, alpha: float | None = 3.0, blocks: list[int] | None = None, **sizes: int) -> Encoder:
    """An encoder whose updates are not zero."""
    encoder = Encoder(**sizes)
    inject_lora(encoder, rank, alpha, blocks)
    for name, weight in encoder.named_parameters():
        nn.init.normal_(weight, std=0.5) if "lora_" in name else weight.requires_grad_(False)
    return encoder.eval()


def naive(layer: LoRAQKV, tokens: Tensor) -> Tensor:
    """The definition: query and value rows get scale * B A x."""
    q, k, v = nn.functional.linear(tokens, layer.weight, layer.bias).chunk(3, dim=-1)
    q = q + layer.scale * tokens @ layer.lora_q_down.T @ layer.lora_q_up.T
    v = v + layer.scale * tokens @ layer.lora_v_down.T @ layer.lora_v_up.T
    return torch.cat([q, k, v], dim=-1)


@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8), (2, 3, 4, 8), (1, 1, 1, 8)])
def test_the_forward_pass_is_the_definition_with_its_gradients(shape: tuple[int, ...]) -> None:
    layer = adapted(depth=1).blocks[0]["attn"].qkv.double()
    tokens = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(tokens), naive(layer, tokens))
    wanted = [tokens, *(weight for weight in layer.parameters() if weight.requires_grad)]
    assert len(wanted) == 5
    weights = torch.rand(*shape[:-1], 24, dtype=torch.float64)
    found = torch.autograd.grad((layer(tokens) * weights).sum(), wanted)
    expected = torch.autograd.grad((naive(layer, tokens) * weights).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_only_the_chosen_blocks_are_adapted() -> None:
    encoder = Encoder(depth=12)
    assert inject_lora(encoder, blocks=[1, 11]) == ["blocks.1.attn.qkv", "blocks.11.attn.qkv"]
    assert {name.split(".")[1] for name in lora_state(encoder)} == {"1", "11"}


@pytest.mark.parametrize(
    ("blocks", "told"), [([3], r"some of \[0, 1, 2\], got \[3\]"), ([], "got"), ([-1], r"got \[-1\]")]
)
def test_a_block_that_is_not_there_is_refused(blocks: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        inject_lora(Encoder(), blocks=blocks)


def test_adapting_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv is a LoRAQKV already"):
        inject_lora(adapted())


def test_folding_costs_nothing_and_unfolding_restores_each_bit() -> None:
    encoder, tokens = adapted(), torch.rand(2, 5, 8)
    before, expected = copy.deepcopy(encoder.state_dict()), encoder(tokens)
    names = [f"blocks.{index}.attn.qkv" for index in range(3)]
    assert fold_lora(encoder) == fold_lora(encoder) == names
    folded, merged = encoder(tokens), copy.deepcopy(encoder)
    torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-6)
    assert merge_lora(merged) == names
    assert torch.equal(merged(tokens), folded)
    layer = encoder.blocks[0]["attn"].qkv
    assert torch.equal(layer(tokens), nn.functional.linear(tokens, layer.weight, layer.bias))
    assert unfold_lora(encoder) == unfold_lora(encoder) == names
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())
    assert torch.equal(encoder(tokens), expected)


def test_a_folded_network_saves_and_loads_what_an_unfolded_one_does() -> None:
    encoder, other = adapted(), adapted()
    before, tokens = copy.deepcopy(encoder.state_dict()), torch.rand(2, 5, 8)
    expected = other(tokens)
    fold_lora(encoder)
    saved = encoder.state_dict()
    assert list(saved) == list(before)
    assert all(torch.equal(saved[name], weight) for name, weight in before.items())
    encoder.load_state_dict(other.state_dict())
    assert torch.equal(encoder(tokens), expected)


def test_training_unfolds() -> None:
    encoder = adapted()
    weight = encoder.blocks[0]["attn"].qkv.weight.clone()
    fold_lora(encoder)
    encoder.train()
    assert torch.equal(encoder.blocks[0]["attn"].qkv.weight, weight)
    encoder(torch.rand(1, 2, 8)).sum().backward()
    assert encoder.blocks[0]["attn"].qkv.lora_q_up.grad.abs().max() > 0


@pytest.mark.parametrize("folded", [False, True])
def test_updates_travel_alone(folded: bool) -> None:
    source, target, tokens = adapted(), adapted(), torch.rand(2, 5, 8)
    assert set(lora_state(source)) == {name for name in source.state_dict() if "lora_" in name}
    target.load_state_dict(source.state_dict())
    for name, weight in target.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight)
    unfold_lora(target) if not folded else fold_lora(target)
    load_lora_state(target, lora_state(source))
    torch.testing.assert_close(target(tokens), source(tokens), rtol=1e-5, atol=1e-6)


def test_updates_of_vit_b_are_less_than_a_megabyte(tmp_path: Path) -> None:
    with torch.device("meta"):
        encoder = Encoder(depth=12, dim=768)
        inject_lora(encoder, rank=4)
    state = lora_state(encoder.to_empty(device="cpu"))
    torch.save(state, tmp_path / "lora.pt")
    assert sum(weight.numel() for weight in state.values()) == 147_456
    assert (tmp_path / "lora.pt").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"rank": 3}, r"other\.pt: .*lora_q_down is 3x8, must be 2x8.*use the rank"),
        ({"dim": 4}, r"lora_q_down is 2x4, must be 2x8"),
        ({"blocks": [0, 2]}, r"missing: blocks\.1\.attn\.qkv\.lora_q_down 2x8"),
        ({"depth": 4}, r"unexpected: blocks\.3\.attn\.qkv\.lora_q_down 2x8"),
    ],
)
def test_updates_of_another_network_are_refused_and_change_nothing(source: dict, told: str) -> None:
    encoder = adapted()
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(InputError, match=told):
        load_lora_state(encoder, lora_state(adapted(**source)), "other.pt")
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


def test_it_traces_exports_and_compiles() -> None:
    encoder, tokens, other = adapted(), torch.rand(2, 5, 8), torch.rand(3, 7, 8)
    expected = encoder(other)
    traced = torch.jit.trace(encoder, tokens)
    exported = torch.export.export(
        encoder, (tokens,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    )
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    for run in (traced, exported.module(), compiled):
        torch.testing.assert_close(run(other), expected)
    compiled(other).sum().backward()
    assert encoder.blocks[0]["attn"].qkv.lora_v_up.grad.abs().max() > 0


def test_under_autocast_it_follows_the_frozen_layer() -> None:
    encoder, tokens = adapted(), torch.rand(2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = encoder.blocks[0]["attn"].qkv(tokens)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), encoder.blocks[0]["attn"].qkv(tokens), rtol=0.05, atol=0.05)
