# SPDX-License-Identifier: Apache-2.0
"""Adapters and low-rank updates: identity at start, exact merge, honest names."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_ext.networks.layers.adapter import AdaptedBlock, PromptAdapter
from monai_ext.networks.layers.lora import LoRAQKV, inject_lora, merge_lora


class Attention(nn.Module):
    """Just enough of an attention layer to be adapted."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.qkv(x)


def trained_lora() -> LoRAQKV:
    layer = LoRAQKV.from_linear(nn.Linear(8, 24), rank=2, alpha=3.0)
    nn.init.normal_(layer.lora_q_up)
    nn.init.normal_(layer.lora_v_up)
    return layer


def test_adapter_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in PromptAdapter(96).parameters()) == 65 * 96 + 32


def test_zero_initialised_adapter_is_identity_and_learns() -> None:
    block, tokens = AdaptedBlock(nn.Identity(), PromptAdapter(8, 4, zero_init=True)), torch.rand(2, 3, 3, 8)
    out = block(tokens)
    assert torch.equal(out, tokens)
    out.square().sum().backward()
    assert block.prompt_learn[2].weight.grad.abs().max() > 0


def test_adapter_follows_the_formula() -> None:
    adapter, x = PromptAdapter(8, 4), torch.rand(3, 8)
    gelu = torch.nn.functional.gelu
    expected = gelu(gelu(x @ adapter[0].weight.T + adapter[0].bias) @ adapter[2].weight.T + adapter[2].bias)
    torch.testing.assert_close(adapter(x), expected)


def test_untrained_lora_changes_nothing_bit_for_bit() -> None:
    linear, x = nn.Linear(8, 24), torch.rand(2, 5, 8)
    assert torch.equal(LoRAQKV.from_linear(linear)(x), linear(x))


def test_merged_lora_equals_unmerged() -> None:
    layer, x = trained_lora(), torch.rand(2, 5, 8)
    torch.testing.assert_close(layer.merged()(x), layer(x), atol=1e-6, rtol=1e-5)


def test_lora_changes_query_and_value_only() -> None:
    layer, x = trained_lora(), torch.rand(5, 8)
    change = layer(x) - nn.functional.linear(x, layer.weight, layer.bias)
    q, k, v = change.chunk(3, dim=-1)
    assert k.abs().max() == 0
    torch.testing.assert_close(q, 1.5 * x @ layer.lora_q_down.T @ layer.lora_q_up.T)
    torch.testing.assert_close(v, 1.5 * x @ layer.lora_v_down.T @ layer.lora_v_up.T)


def test_injection_keeps_published_names_and_merging_restores_the_layer() -> None:
    network = nn.Sequential(Attention(), Attention())
    published = {k: v.clone() for k, v in network.state_dict().items()}
    assert inject_lora(network, rank=2) == ["0.qkv", "1.qkv"]
    assert set(published) < set(network.state_dict())
    network.load_state_dict(published, strict=False)
    assert merge_lora(network) == ["0.qkv", "1.qkv"]
    assert set(network.state_dict()) == set(published)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: LoRAQKV(8, 24, rank=0), "rank"),
        (lambda: LoRAQKV(8, 25), "multiple of 3"),
        (lambda: PromptAdapter(8, 0), "hidden_dim"),
        (lambda: inject_lora(nn.Linear(2, 2)), "qkv"),
    ],
)
def test_a_bad_argument_is_named(build: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build()  # type: ignore[operator]
