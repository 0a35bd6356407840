# SPDX-License-Identifier: Apache-2.0
"""Masked autoencoder: published size and names, what is hidden stays hidden, and patches keep their places."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.networks.blocks.mae_block import MAEBlock
from monai_ext.networks.nets.mae import MaskedAutoencoder, build_mae, patches_of
from monai_ext.networks.nets.mae_encoder import IMAGENET_MEAN, IMAGENET_STD, MAEEncoder, build_mae_encoder

SIDE, LENGTH, KEPT = 64, 16, 4


def build(**knobs: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return build_mae("small", **{"image_size": SIDE, **knobs}).eval()


def orders(count: int = 2) -> Tensor:
    return torch.rand(count, LENGTH).argsort(dim=1)


def parameters(network: nn.Module, trainable: bool) -> int:
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad or not trainable)


def test_it_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        encoder, whole = build_mae_encoder("vit_large"), build_mae("vit_large")
    assert (parameters(encoder, True), parameters(encoder, False)) == (303_099_904, 303_301_632)
    assert (parameters(whole, True), parameters(whole, False)) == (329_239_296, 329_541_888)
    assert parameters(whole, True) - parameters(encoder, True) == 26_139_392


def test_its_weights_have_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = build_mae("vit_large").state_dict()
    block = [f"{part}.{kind}" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
             for kind in ("weight", "bias")]  # fmt: skip
    names = {f"blocks.{index}.{part}" for index in range(24) for part in block}
    names |= {f"decoder_blocks.{index}.{part}" for index in range(8) for part in block}
    layers = ("patch_embed.proj", "norm", "decoder_embed", "decoder_norm", "decoder_pred")
    names |= {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(state) == names | {"cls_token", "pos_embed", "mask_token", "decoder_pos_embed"}
    shapes = {
        "patch_embed.proj.weight": (1024, 3, 16, 16),
        "cls_token": (1, 1, 1024),
        "pos_embed": (1, 197, 1024),
        "decoder_embed.weight": (512, 1024),
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, 197, 512),
        "decoder_pred.weight": (768, 512),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_a_block_is_the_usual_one() -> None:
    block, tokens = MAEBlock(24, 3).eval(), torch.randn(2, 5, 24)
    usual = nn.TransformerEncoderLayer(
        24, 3, 96, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    pairs = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "self_attn.out_proj"}
    pairs |= {"mlp.fc1": "linear1", "mlp.fc2": "linear2"}
    own = block.state_dict()
    state = {f"{theirs}.{kind}": own[f"{ours}.{kind}"] for ours, theirs in pairs.items() for kind in ("weight", "bias")}
    state |= {f"self_attn.in_proj_{kind}": own[f"attn.qkv.{kind}"] for kind in ("weight", "bias")}
    usual.load_state_dict(state)
    torch.testing.assert_close(block(tokens), usual.train()(tokens), atol=1e-5, rtol=1e-5)


def test_positions_are_sines_and_cosines_of_column_and_row() -> None:
    table = build().pos_embed[0]
    assert not table[0].any()
    quarter = table.shape[1] // 4
    for row, column, channel in ((0, 0, 0), (1, 3, 5), (3, 2, quarter - 1)):
        rate = 10_000 ** (-channel / quarter)
        expected = [math.sin(column * rate), math.cos(column * rate), math.sin(row * rate), math.cos(row * rate)]
        found = table[1 + 4 * row + column, channel::quarter]
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_patches_are_cut_row_by_row_with_channels_last() -> None:
    pixels = torch.rand(2, 3, 8, 12)
    patches = patches_of(pixels, 4)
    assert patches.shape == (2, 6, 48)
    for patch, row, column, channel in ((0, 0, 0, 0), (4, 2, 1, 2), (5, 3, 3, 1)):
        expected = pixels[:, channel, patch // 3 * 4 + row, patch % 3 * 4 + column]
        assert torch.equal(patches[:, patch, (4 * row + column) * 3 + channel], expected)


@pytest.mark.parametrize(("mask_ratio", "kept"), [(0.75, 49), (0.5, 98)])
def test_as_many_patches_are_hidden_as_asked(mask_ratio: float, kept: int) -> None:
    predicted, patches, hidden = build(image_size=224, mask_ratio=mask_ratio)(torch.rand(2, 1, 224, 224))
    assert predicted.shape == patches.shape == (2, 196, 768)
    assert (196 - hidden.sum(dim=1)).tolist() == [kept, kept]


def test_images_hide_different_patches_and_the_seed_decides() -> None:
    image = torch.rand(2, 1, SIDE, SIDE)
    torch.manual_seed(5)
    first, second = build()(image)[2], build()(image)[2]
    assert torch.equal(first, second)  # build() sets the seed
    assert not torch.equal(first[0], first[1])


def test_targets_are_the_normalised_pixels() -> None:
    network, image = build(in_channels=3), torch.rand(1, 3, SIDE, SIDE)
    mean, std = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(network(image)[1], patches_of((image - mean) / std, 16))


def test_what_is_hidden_does_not_show() -> None:
    network, image, order = build(), torch.rand(1, 1, SIDE, SIDE), orders(1)
    predicted, _, hidden = network(image, order)
    assert hidden[0, order[0]].tolist() == [0.0] * KEPT + [1.0] * (LENGTH - KEPT)
    at = hidden.reshape(1, 1, 4, 4).repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)
    torch.testing.assert_close(network(image + at, order)[0], predicted, atol=0, rtol=0)
    assert (network(image + 0.1 * (1 - at), order)[0] - predicted).abs().max() > 1e-4


def test_the_order_of_the_patches_that_are_kept_does_not_matter() -> None:
    network, image, order = build(), torch.rand(1, 1, SIDE, SIDE), orders(1)
    other = torch.cat([order[:, :KEPT].flip(1), order[:, KEPT:].roll(1, dims=1)], dim=1)
    for found, expected in zip(network(image, other), network(image, order), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_tokens_come_in_the_order_of_what_is_kept() -> None:
    network, pixels, order = build(), torch.rand(1, 3, SIDE, SIDE), orders(1)
    whole = network.encode(pixels)
    shuffled = network.encode(pixels, order)
    torch.testing.assert_close(shuffled[:, 1:], whole[:, 1:][:, order[0]], atol=1e-5, rtol=1e-5)


def test_features_are_the_tokens_of_the_whole_image_as_a_map() -> None:
    network, image = build(), torch.rand(2, 1, SIDE, SIDE)
    features = network.features(image)
    assert features.shape == (2, 192, 4, 4)
    tokens = network.encode(network.pixels(image))
    torch.testing.assert_close(features[:, :, 2, 1], tokens[:, 1 + 2 * 4 + 1])


def test_features_of_an_earlier_layer_are_those_of_a_shallower_network() -> None:
    network = build_mae_encoder("small", SIDE, feature_layer=2).eval()
    shallow = MAEEncoder(192, 2, 3, SIDE).eval()
    shallow.load_state_dict(network.state_dict(), strict=False)
    image = torch.rand(1, 1, SIDE, SIDE)
    assert torch.equal(network(image), shallow(image))


def test_every_weight_learns_but_the_positions() -> None:
    network = build().train()
    predicted, patches, _ = network(torch.rand(2, 1, SIDE, SIDE))
    (predicted - patches).square().mean().backward()
    still = {name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert still == {"pos_embed", "decoder_pos_embed"}


def test_bad_arguments_and_images_are_named() -> None:
    for knobs, told in (
        ({"mask_ratio": 0.99}, "leave one of 16 patches, got 0.99"),
        ({"mask_ratio": 0.0}, "mask_ratio must be between 0 and 1"),
        ({"in_channels": 2}, "in_channels must be 1 or 3, got 2"),
        ({"image_size": 60}, "multiple of 16, got 60"),
    ):
        with pytest.raises(ValueError, match=told):
            build(**knobs)
    with pytest.raises(ValueError, match=r"feature_layer must be in \[1, 4\] or None, got 5"):
        build_mae_encoder("small", feature_layer=5)
    with pytest.raises(ValueError, match="teacher must be one of vit_base, vit_large, small, got 'vit_huge'"):
        build_mae("vit_huge")
    with pytest.raises(ValueError, match=r"image must be 64 x 64, got \(32, 64\)"):
        build()(torch.rand(1, 1, 32, SIDE))
