# SPDX-License-Identifier: Apache-2.0
"""H-SAM's second stage: any size, any number of classes, no label, and each of its parts does its work."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from segment_anything.modeling.transformer import TwoWayAttentionBlock
from torch import Tensor

from monai_ext.networks.blocks.hierarchical_decoder import HierarchicalDecoder
from monai_ext.networks.blocks.hierarchical_pixel_decoder import HierarchicalPixelDecoder
from monai_ext.networks.blocks.mask_cross_attention import MaskCrossAttention
from monai_ext.networks.blocks.mask_two_way_block import MaskTwoWayBlock
from monai_ext.networks.blocks.paired_mask_decoder import DecodedMasks

DIM = 32


def build(classes: int = 3, **knobs: float) -> HierarchicalDecoder:
    torch.manual_seed(0)
    decoder = HierarchicalDecoder(classes, DIM, num_heads=2, mlp_dim=16, **knobs)
    nn.init.normal_(decoder.enhance.gate.weight)
    return decoder.eval()


def first_stage(batch: int = 2, classes: int = 3, side: int = 2) -> tuple[Tensor, Tensor, DecodedMasks]:
    generator = torch.Generator().manual_seed(1)
    shapes = [
        (batch, DIM, side, side), (1, DIM, side, side), (batch, classes, 4 * side, 4 * side),
        (batch, 1 + classes, DIM), (batch, DIM // 8, 4 * side, 4 * side),
    ]  # fmt: skip
    embedding, position, *decoded = (torch.randn(shape, generator=generator) for shape in shapes)
    return embedding, position, DecodedMasks(*decoded)


@pytest.mark.parametrize("classes", [2, 5, 13])
@pytest.mark.parametrize("side", [1, 3])
def test_masks_have_the_pixels_of_the_image_for_any_size_and_number_of_classes(classes: int, side: int) -> None:
    masks = build(classes)(*first_stage(classes=classes, side=side))
    assert masks.shape == (2, classes, 16 * side, 16 * side)


def test_no_weight_depends_on_the_size_of_the_image() -> None:
    decoder = build()
    assert [tuple(decoder(*first_stage(side=side)).shape[2:]) for side in (2, 4)] == [(32, 32), (64, 64)]


@pytest.mark.parametrize(("classes", "expected"), [(2, 6_146_707), (9, 8_019_466)])
def test_at_segment_anythings_size_it_has_the_number_of_weights_that_the_card_says(classes: int, expected: int) -> None:
    with torch.device("meta"):
        decoder = HierarchicalDecoder(classes)
    assert sum(weight.numel() for weight in decoder.parameters()) == expected == 5_611_633 + 267_537 * classes


def test_images_of_a_batch_do_not_see_each_other() -> None:
    decoder, (embedding, position, first) = build(), first_stage()
    with torch.no_grad():
        together = decoder(embedding, position, first)
        for i in range(2):
            alone = decoder(embedding[i : i + 1], position, DecodedMasks(*(part[i : i + 1] for part in first)))
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_the_gradient_reaches_all_weights_and_all_that_the_first_stage_gave() -> None:
    decoder, (embedding, position, first) = build().train(), first_stage()
    given = [part.requires_grad_() for part in (embedding, first.masks, first.tokens, first.features)]
    decoder(embedding, position, first).square().mean().backward()
    assert all(part.grad.abs().max() > 0 for part in given)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in decoder.parameters())


def test_training_is_random_by_noise_and_dropout_and_only_by_these() -> None:
    parts = first_stage()
    plain = build(noise=0.0, dropout=0.0)
    assert torch.equal(plain.train()(*parts), plain.eval()(*parts))
    for knobs in ({"noise": 0.2, "dropout": 0.0}, {"noise": 0.0, "dropout": 0.2}):
        decoder = build(**knobs).train()
        assert not torch.equal(decoder(*parts), decoder(*parts))


def test_classes_are_decoded_from_their_own_tokens_filters_and_masks() -> None:
    decoder, (embedding, position, first) = build(), first_stage()
    order = [2, 0, 1]
    moved = copy.deepcopy(decoder)
    moved.mask_tokens.weight.data = decoder.mask_tokens.weight.data[order]
    moved.enhance.gate.weight.data = decoder.enhance.gate.weight.data[:, order]
    moved.filters = nn.ModuleList(decoder.filters[i] for i in order)
    tokens = torch.cat([first.tokens[:, :1], first.tokens[:, 1:][:, order]], dim=1)
    with torch.no_grad():
        found = moved(embedding, position, first._replace(masks=first.masks[:, order], tokens=tokens))
        torch.testing.assert_close(found, decoder(embedding, position, first)[:, order], atol=1e-5, rtol=1e-5)


def test_the_features_of_the_first_stage_matter() -> None:
    decoder, (embedding, position, first) = build(), first_stage()
    other = first._replace(features=first.features + 1)
    assert not torch.allclose(decoder(embedding, position, first), decoder(embedding, position, other))


def test_with_a_mask_of_ones_a_block_is_segment_anythings_with_its_first_two_steps_exchanged() -> None:
    torch.manual_seed(0)
    ours = MaskTwoWayBlock(DIM, num_heads=2, mlp_dim=16)
    theirs = TwoWayAttentionBlock(DIM, num_heads=2, mlp_dim=16, attention_downsample_rate=1)
    pairs = [(ours.tokens_to_pixels, theirs.cross_attn_token_to_image), (ours.between_tokens, theirs.self_attn)]
    for mine, other in [*pairs, (ours.pixels_to_tokens, theirs.cross_attn_image_to_token)]:
        load(other, mine)
    theirs.mlp.lin1.load_state_dict(ours.mlp[0].state_dict())
    theirs.mlp.lin2.load_state_dict(ours.mlp[2].state_dict())
    tokens, pixels, token_pe, pixel_pe = (torch.randn(2, n, DIM) for n in (3, 5, 3, 5))
    norm = lambda rows: F.layer_norm(rows, (DIM,))  # noqa: E731 - all norms are untrained
    with torch.no_grad():
        found = ours(tokens, pixels, token_pe, pixel_pe, torch.ones(2, 3, 5))
        crossed = norm(tokens + theirs.cross_attn_token_to_image(tokens + token_pe, pixels + pixel_pe, pixels))
        query = crossed + token_pe
        spoken = norm(crossed + theirs.self_attn(query, query, crossed))
        thought = norm(spoken + theirs.mlp(spoken))
        seen = theirs.cross_attn_image_to_token(pixels + pixel_pe, thought + token_pe, thought)
        torch.testing.assert_close(found, (thought, norm(pixels + seen)), atol=1e-5, rtol=1e-5)


def load(theirs: nn.Module, ours: MaskCrossAttention) -> None:
    """The weights of our attention under Segment Anything's names."""
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "proj": "out_proj"}
    theirs.load_state_dict({names[n.split(".")[0]] + "." + n.split(".")[1]: w for n, w in ours.state_dict().items()})


@pytest.mark.parametrize(
    ("build_wrong", "told"),
    [
        (lambda: HierarchicalDecoder(1), "num_masks must be at least 2, background among them, got 1"),
        (lambda: HierarchicalDecoder(2, noise=-1.0), "strength"),
        (lambda: HierarchicalPixelDecoder(24), "dim must be a multiple of 16, got 24"),
    ],
)
def test_what_does_not_fit_is_named(build_wrong: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build_wrong()  # type: ignore[operator]
