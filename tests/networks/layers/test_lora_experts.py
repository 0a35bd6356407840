# SPDX-License-Identifier: Apache-2.0
"""Several experts on one encoder: one in use, the others free, each exchangeable with a single update."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.layers.lora import LoRAQKV, load_lora_state, lora_state
from monai_ext.networks.layers.lora_experts import (
    LoRAExpertsQKV,
    expert_state,
    inject_experts,
    load_expert,
    merge_expert,
    select_expert,
)
from tests.networks.layers.test_lora import Encoder, adapted

NAMES = ("image", "patch", "pixel")


def experts(rank: int = 2, trained: bool = True, blocks: list[int] | None = None) -> Encoder:
    encoder = Encoder()
    encoder.requires_grad_(False)
    inject_experts(encoder, NAMES, rank, 3.0, blocks)
    for name, weight in encoder.named_parameters():
        if trained and "lora_" in name:
            nn.init.normal_(weight, std=0.5)
    return encoder.eval()


@pytest.mark.parametrize("name", [None, *NAMES])
def test_untrained_experts_change_nothing_bit_for_bit(name: str | None) -> None:
    encoder, tokens = Encoder(), torch.rand(2, 5, 8)
    expected = encoder(tokens)
    assert inject_experts(encoder, NAMES) == [f"blocks.{index}.attn.qkv" for index in range(3)]
    select_expert(encoder, name)
    assert torch.equal(encoder(tokens), expected)


def test_no_expert_is_selected_at_first_and_none_can_be_again() -> None:
    encoder, tokens = experts(), torch.rand(2, 5, 8)
    expected = encoder(tokens)
    select_expert(encoder, "patch")
    changed = encoder(tokens)
    select_expert(encoder, None)
    assert torch.equal(encoder(tokens), expected)
    assert not torch.allclose(changed, expected)


def test_a_selected_expert_is_what_a_single_update_is() -> None:
    single, several, tokens = adapted(), experts(), torch.rand(2, 5, 8)
    several.load_state_dict(single.state_dict() | several.state_dict() | frozen(single), strict=False)
    load_expert(several, "patch", lora_state(single))
    select_expert(several, "patch")
    assert torch.equal(several(tokens), single(tokens))


def frozen(encoder: Encoder) -> dict[str, Tensor]:
    return {name: weight for name, weight in encoder.state_dict().items() if "lora_" not in name}


def test_files_are_exchangeable_with_those_of_a_single_update() -> None:
    single, several = adapted(), experts()
    state = expert_state(several, "pixel")
    assert list(state) == list(lora_state(single))
    load_lora_state(single, state)
    load_expert(several, "image", lora_state(single))
    assert all(torch.equal(weight, state[name]) for name, weight in expert_state(several, "image").items())
    assert not torch.equal(*(expert_state(several, n)["blocks.0.attn.qkv.lora_q_up"] for n in ("image", "patch")))


@pytest.mark.parametrize(
    ("source", "told"),
    [({"rank": 3}, r"x\.pt: .*lora_q_down is 3x8, must be 2x8"), ({"blocks": [0]}, r"missing: blocks\.1\.attn")],
)
def test_an_update_of_another_network_is_refused_and_changes_nothing(source: dict, told: str) -> None:
    encoder = experts()
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(InputError, match=told):
        load_expert(encoder, "image", lora_state(adapted(**source)), "x.pt")
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


def test_only_the_selected_expert_gets_a_gradient() -> None:
    encoder = experts()
    select_expert(encoder, "patch")
    encoder(torch.rand(2, 5, 8)).sum().backward()
    touched = {name for name, weight in encoder.named_parameters() if weight.grad is not None}
    assert touched
    assert touched == {name for name, _ in encoder.named_parameters() if ".patch." in name}


def test_experts_that_are_not_selected_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = experts(), []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *given: calls.append(given[1].shape) or linear(*given))
    encoder(torch.rand(2, 5, 8))
    assert len(calls) == 3
    select_expert(encoder, "pixel")
    encoder(torch.rand(2, 5, 8))
    assert len(calls) == 3 + 2 * 3


@pytest.mark.parametrize("names", [None, ("pixel", "image")])
def test_one_pass_gives_the_base_and_what_each_expert_adds(names: tuple[str, ...] | None) -> None:
    layer, tokens = experts().blocks[0]["attn"].qkv, torch.rand(2, 3, 4, 8)
    expected = layer(tokens)
    layer.select("patch")  # makes no difference
    base, changes = layer.base_and_changes(tokens, names)
    assert torch.equal(base, expected)
    assert tuple(changes) == (names or NAMES)
    for name, change in changes.items():
        layer.select(name)
        q, k, v = (layer(tokens) - base).chunk(3, dim=-1)
        torch.testing.assert_close(change.query, q, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(change.value, v, rtol=1e-4, atol=1e-5)
        assert k.abs().max() == 0


def test_one_pass_projects_the_tokens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, calls = experts().blocks[0]["attn"].qkv, []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *given: calls.append(given[1].shape) or linear(*given))
    layer.base_and_changes(torch.rand(2, 5, 8))
    assert calls.count(layer.weight.shape) == 1
    assert layer.base_and_changes(torch.rand(2, 5, 8), [])[1] == {}


def test_merging_leaves_a_plain_network_with_one_expert() -> None:
    encoder, tokens = experts(blocks=[0, 2]), torch.rand(2, 5, 8)
    select_expert(encoder, "image")
    expected = encoder(tokens)
    select_expert(encoder, None)
    assert merge_expert(encoder, "image") == ["blocks.0.attn.qkv", "blocks.2.attn.qkv"]
    torch.testing.assert_close(encoder(tokens), expected, rtol=1e-5, atol=1e-6)
    assert list(encoder.state_dict()) == list(Encoder().state_dict())


def test_it_traces_and_compiles() -> None:
    encoder, tokens = experts(), torch.rand(2, 5, 8)
    select_expert(encoder, "pixel")
    expected = encoder(tokens)
    torch.testing.assert_close(torch.jit.trace(encoder, torch.rand(1, 2, 8))(tokens), expected)
    torch.testing.assert_close(torch.compile(encoder, backend="aot_eager", fullgraph=True)(tokens), expected)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: LoRAExpertsQKV(8, 24, ()), "one or more different names"),
        (lambda: LoRAExpertsQKV(8, 24, "image"), "one or more different names"),
        (lambda: LoRAExpertsQKV(8, 24, ("a", "a")), "one or more different names"),
        (lambda: LoRAExpertsQKV(8, 24, ("a.b",)), "identifiers.*'a.b'"),
        (lambda: LoRAExpertsQKV(8, 24, ("keys",)), "identifiers.*'keys'"),
        (lambda: LoRAExpertsQKV(8, 24, ("a",), rank=0), "rank"),
        (lambda: LoRAExpertsQKV(8, 25, ("a",)), "multiple of 3"),
        (lambda: inject_experts(adapted(), ("a",)), "is a LoRAQKV already"),
        (lambda: select_expert(experts(), "liver"), "one of image, patch, pixel, got 'liver'"),
        (lambda: select_expert(Encoder(), "liver"), "has no experts"),
        (lambda: expert_state(experts(), "liver"), "got 'liver'"),
    ],
)
def test_a_bad_argument_is_named(build: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build()  # type: ignore[operator]


def test_a_layer_of_experts_is_no_single_update() -> None:
    assert not isinstance(LoRAExpertsQKV(8, 24, ("a",)), LoRAQKV)
