# SPDX-License-Identifier: Apache-2.0
"""The encoder with experts: plain Segment Anything at the start, a loop over published blocks later."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn as nn
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor

from monai_ext.networks.blocks.hl_attention import HLAttention
from monai_ext.networks.nets.experts_encoder import ExpertsEncoder
from monai_ext.networks.nets.sam_encoder import SAMEncoder

NAMES = ("image", "patch", "pixel")
SIDE = 240  # one window and a bit


def published(side: int = SIDE, depth: int = 3) -> ImageEncoderViT:
    """The package's encoder with random positions and biases, which are zero at first."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=side,
        embed_dim=24,
        depth=depth,
        num_heads=3,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(1,),
    )
    for name, weight in encoder.named_parameters():
        if "pos" in name or "bias" in name:
            nn.init.normal_(weight, std=0.5)
    return encoder.eval().requires_grad_(False)


def build(side: int = SIDE, depth: int = 3, trained: bool = True, **knobs: Any) -> ExpertsEncoder:
    encoder = ExpertsEncoder(**{"encoder": published(side, depth), "experts": NAMES, "rank": 2, **knobs}).eval()
    for name, weight in encoder.named_parameters():
        if trained and "lora_" in name:
            nn.init.normal_(weight, std=0.3)
    return encoder


def fusions(blocks: range | tuple[int, ...] = range(3), zero_init: bool = True, **knobs: Any) -> nn.ModuleDict:
    return nn.ModuleDict({str(i): HLAttention(24, 3, zero_init=zero_init, **knobs) for i in blocks})


def pixels(side: int = SIDE, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, side, side)


@pytest.mark.parametrize("signal", ["full", "delta"])
@pytest.mark.parametrize("knobs", [{}, {"norm": True, "out_proj": True}, {"window_size": 14}, {"qk_dim": 6}])
def test_at_the_start_it_is_the_plain_encoder_bit_for_bit(signal: str, knobs: dict[str, Any]) -> None:
    image = pixels(batch=2)
    with torch.no_grad():
        expected = SAMEncoder(published())(image)
        assert torch.equal(build()(image, fusions(**knobs), signal), expected)
        assert torch.equal(build()(image), expected)


@pytest.mark.parametrize("wanted", [(0, 1, 2), (1,)])
def test_later_it_is_a_loop_over_published_blocks(wanted: tuple[int, ...]) -> None:
    encoder, plain, hl, image = build(alpha=3.0), published(), fusions(wanted, zero_init=False), pixels(batch=2)
    with torch.no_grad():
        tokens = plain.patch_embed(image) + plain.pos_embed
        for index, block in enumerate(plain.blocks):
            outputs = [block(tokens)]
            for name in NAMES:
                changed = copy.deepcopy(block)
                changed.attn.qkv.weight += 1.5 * encoder.blocks[index].attn.qkv.factors(name).change()
                outputs.append(changed(tokens))
            tokens = outputs[0] + (hl[str(index)](outputs[:0:-1]) if index in wanted else 0)
        expected = plain.neck(tokens.permute(0, 3, 1, 2))
        torch.testing.assert_close(encoder(image, hl), expected, atol=1e-4, rtol=1e-4)
        assert (expected - plain(image)).abs().max() > 1e-2


def test_gradients_reach_the_first_fusion_through_frozen_blocks() -> None:
    encoder, hl = build(), fusions(zero_init=False)
    encoder.train()(pixels(), hl).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in hl.parameters())
    assert [name for name, weight in encoder.named_parameters() if weight.grad is not None] == []


def test_at_the_start_they_reach_the_last_values_of_each_fusion_only() -> None:
    encoder, hl = build(), fusions()
    encoder.train()(pixels(), hl).square().sum().backward()
    moved = {name for name, weight in hl.named_parameters() if weight.grad.abs().max() > 0}
    assert moved == {f"{index}.levels.1.value.weight" for index in range(3)}


def test_checkpointing_changes_no_gradient_and_runs_blocks_again() -> None:
    image, runs, gradients = pixels(), [], []
    for use_checkpoint in (False, True):
        torch.manual_seed(1)
        encoder, hl = build(use_checkpoint=use_checkpoint).train(), fusions(zero_init=False)
        runs.append(0)
        hl["0"].register_forward_pre_hook(lambda *_: runs.append(runs.pop() + 1))
        encoder(image, hl).square().sum().backward()
        gradients.append([weight.grad for weight in hl.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert runs == [1, 2]


def test_a_selected_expert_alone_is_a_published_encoder_with_it_in_its_weights() -> None:
    encoder, plain, image = build(), published(), pixels()
    for ours, block in zip(encoder.blocks, plain.blocks, strict=True):
        block.attn.qkv.weight += ours.attn.qkv.factors("patch").change()
    with torch.no_grad():
        torch.testing.assert_close(encoder.select("patch")(image), plain(image), atol=1e-4, rtol=1e-4)
        assert torch.equal(encoder.select(None)(image), SAMEncoder(published())(image))


def test_one_expert_trains_and_all_else_is_frozen() -> None:
    encoder = build().train_only("pixel").train()
    encoder(pixels()).square().sum().backward()
    touched = {name for name, weight in encoder.named_parameters() if weight.grad is not None}
    assert touched == {name for name, _ in encoder.named_parameters() if ".experts.pixel." in name}
    assert touched


def test_nothing_trains_at_first() -> None:
    assert not any(weight.requires_grad for weight in build().parameters())


def test_names_of_the_frozen_weights_stay_so_that_published_files_load() -> None:
    names = {name for name in build().state_dict() if "lora_" not in name}
    assert names == set(published().state_dict())
    result = build().load_state_dict(published().state_dict(), strict=False)
    assert result.unexpected_keys == []


def test_without_experts_it_is_the_plain_encoder() -> None:
    encoder, image = build(experts=()), pixels()
    assert list(encoder.select(None).state_dict()) == list(published().state_dict())
    with torch.no_grad():
        assert torch.equal(encoder(image), SAMEncoder(published())(image))


@pytest.mark.parametrize("window", [0, 14])
def test_a_trace_equals_the_encoder_for_any_batch(window: int) -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.hl = build(), fusions(zero_init=False, window_size=window)

        def forward(self, image: Tensor) -> Tensor:
            return self.encoder(image, self.hl)

    network, image = Fused().eval(), pixels(batch=3)
    traced = torch.jit.trace(network, pixels(), check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(traced(image), network(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: build()(pixels(), fusions(), "sum"), "full, delta, got 'sum'"),
        (lambda: build()(pixels(), fusions((3,))), "blocks 0 to 2, got '3'"),
        (lambda: build()(pixels(64), fusions()), "3, 240, 240"),
        (lambda: build().select("liver"), "got 'liver'"),
        (lambda: build(experts=()).select("liver"), "has no experts"),
        (lambda: build(blocks=[3]), r"blocks must be some of \[0, 1, 2\]"),
    ],
)
def test_what_cannot_be_is_named(call: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()
