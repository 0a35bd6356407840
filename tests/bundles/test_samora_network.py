# SPDX-License-Identifier: Apache-2.0
"""SAMora starts as Segment Anything, trains what it says, and knows which experts it is made of."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from samora.network import SAMora
from torch import Tensor

from monai_ext.networks.checkpoints.base_hash import base_hash
from monai_ext.networks.layers.letterbox import Letterbox
from monai_ext.networks.nets.experts_encoder import ExpertsEncoder
from monai_ext.networks.nets.sam import build_plain_sam, build_published_encoder, build_sam_encoder
from tests.contracts import NetworkContract

SIDE = 64
QUALITY = r"mask_decoder\.iou_prediction_head\."  # the published decoder's, of which this method has no use


def start(seed: int = 0, **knobs: Any) -> SAMora:
    """A network as it is built, but that positions, zero at first, are random."""
    torch.manual_seed(seed)
    network = SAMora(**{"sam_type": "vit_tiny", "image_size": SIDE, **knobs})
    for name, weight in network.image_encoder.named_parameters():
        if "pos" in name:
            nn.init.normal_(weight, std=0.1)
    return network.eval()


def build(**knobs: Any) -> SAMora:
    """A network all of whose weights have moved: many start at zero, and zeros hide mistakes."""
    network, generator = start(**knobs), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return network


def images(batch: int = 2, height: int = 50, width: int = 97, channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(2))


class TestOneObject(NetworkContract):
    key_count = 326
    some_keys = (
        "image_encoder.blocks.0.attn.qkv.experts.pixel.lora_q_down",
        "hl_attention.5.levels.1.value.weight",
        "image_encoder.blocks.0.attn.qkv.weight",
    )
    without_gradient = QUALITY

    def build(self) -> nn.Module:
        return build()

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width)

    def out_channels(self) -> int:
        return 1


class TestClassesFourChannels(NetworkContract):
    key_count = 290
    some_keys = ("stem.weight", "hl_attention.2.levels.0.norm_high.weight", "hl_attention.2.levels.0.proj.weight")
    without_gradient = QUALITY

    def build(self) -> nn.Module:
        return build(
            in_channels=4,
            num_classes=3,
            experts=("image", "pixel"),
            expert_signal="delta",
            hl_blocks=[2, 4],
            hl_scope="window",
            hl_norm=True,
            hl_out_proj=True,
            hl_residual=True,
            hl_dim=96,
        )

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width, channels=4)

    def out_channels(self) -> int:
        return 3


class TestOneExpert(NetworkContract):
    key_count = 242
    without_gradient = QUALITY

    def build(self) -> nn.Module:
        return build(experts=("patch",), num_classes=2)

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width)

    def out_channels(self) -> int:
        return 2


class TestTwoStages(NetworkContract):
    key_count = 403
    some_keys = ("second_decoder.enhance.gate.weight", "second_decoder.blocks.1.tokens_to_pixels.query.weight")
    without_gradient = QUALITY

    def build(self) -> nn.Module:
        return build(decoder="hsam", num_classes=3, experts=("patch",))

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width)

    def out_channels(self) -> int:
        return 3


COUNTS = [
    ("vit_b", 9, {}, 47_227_273),
    ("vit_b", 1, {}, 46_245_026),
    ("vit_b", 2, {}, 46_245_026),
    ("vit_l", 9, {}, 150_994_944 + 4_759_945),
    ("vit_h", 9, {}, 314_572_800 + 4_759_945),
    ("vit_b", 9, {"hl_out_proj": True}, 56_623_104 + 4_759_945),
    ("vit_b", 9, {"hl_dim": 64, "hl_heads": 8}, 16_515_072 + 4_759_945),
    ("vit_b", 9, {"experts": ("image", "pixel")}, 42_467_328 // 2 + 4_759_945),
    ("vit_b", 9, {"experts": ("pixel",)}, 4_759_945),
    ("vit_b", 9, {"experts": ()}, 4_759_945),
    ("vit_b", 9, {"train_prompt_encoder": True}, 47_227_273 + 6_220),
    ("vit_b", 9, {"decoder": "hsam"}, 47_227_273 + 8_019_466),
    ("vit_b", 1, {"decoder": "hsam"}, 46_245_026 + 6_146_707),
]


@pytest.mark.parametrize(("sam_type", "num_classes", "knobs", "trained"), COUNTS)
def test_what_trains_has_the_known_number_of_weights(
    sam_type: str, num_classes: int, knobs: dict[str, Any], trained: int
) -> None:
    with torch.device("meta"):
        network = SAMora(sam_type=sam_type, num_classes=num_classes, **knobs)
    assert sum(weight.numel() for weight in network.parameters() if weight.requires_grad) == trained


@pytest.mark.parametrize(("decoder", "more"), [("samed", set()), ("hsam", {"second_decoder"})])
def test_hl_attention_and_the_decoder_train_and_all_else_is_frozen(decoder: str, more: set[str]) -> None:
    network = build(decoder=decoder)
    trains = {name.split(".")[0] for name, weight in network.named_parameters() if weight.requires_grad}
    frozen = {name.split(".")[0] for name, weight in network.named_parameters() if not weight.requires_grad}
    assert (trains, frozen) == ({"hl_attention", "mask_decoder"} | more, {"image_encoder", "prompt_encoder"})


def plain_encoder(network: SAMora) -> nn.Module:
    encoder = build_sam_encoder("vit_tiny", SIDE).eval()
    state = network.image_encoder.state_dict()
    encoder.load_state_dict({name: weight for name, weight in state.items() if "lora_" not in name})
    return encoder


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"expert_signal": "delta"},
        {"experts": ("patch", "pixel")},
        {"hl_norm": True, "hl_out_proj": True, "hl_scope": "window"},
        {"hl_dim": 48, "hl_blocks": [2, 5]},
    ],
)
def test_at_the_start_the_encoder_gives_exactly_what_plain_sam_does(knobs: dict[str, Any]) -> None:
    network = start(**knobs)
    train_experts(network)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        found = network.image_encoder(pixels, network.hl_attention, network.expert_signal)
        assert torch.equal(found, plain_encoder(network)(pixels))


def train_experts(network: SAMora) -> None:
    for name, weight in network.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.2)


def test_one_expert_alone_is_the_encoder_with_it_merged() -> None:
    network = build(experts=("pixel",))
    plain, pixels = plain_encoder(network), torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        for block, changed in zip(network.image_encoder.blocks, plain.blocks, strict=True):
            changed.attn.qkv.weight += block.attn.qkv.factors("pixel").change()
        found = network.image_encoder(pixels, network.hl_attention)
        torch.testing.assert_close(found, plain(pixels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(50, 97), (97, 50), (SIDE, SIDE)])
def test_the_whole_is_plain_sams_parts_by_hand(size: tuple[int, int]) -> None:
    network = start(num_classes=4, in_channels=3, pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2, 0.3, 0.4))
    image = images(1, *size, channels=3)
    sam = build_plain_sam("vit_tiny", SIDE, num_mask_tokens=4)
    state = {n: w for n, w in network.state_dict().items() if "lora_" not in n and not n.startswith("hl_attention")}
    sam.load_state_dict(state)
    scale = SIDE / max(size)
    inner = [int(side * scale + 0.5) for side in size]
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    with torch.no_grad():
        pixels = (F.interpolate(image, size=inner, mode="bilinear", align_corners=False) - mean) / std
        embedding = sam.image_encoder(F.pad(pixels, (0, SIDE - inner[1], 0, SIDE - inner[0])))
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        masks, _ = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
        expected = sam.postprocess_masks(masks, input_size=inner, original_size=size)
        torch.testing.assert_close(network(image), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_classes", [1, 2, 13])
def test_training_gives_the_decoders_own_logits_without_the_padding(num_classes: int) -> None:
    network, batch = build(num_classes=num_classes), images()
    logits, low = network.train()(batch)
    assert logits.shape == (2, num_classes, 50, 97)
    assert low.shape == (2, max(num_classes, 2), 9, 16)  # 33 of 64 rows hold the image
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(batch), logits)


@pytest.mark.parametrize("num_classes", [1, 2, 13])
def test_two_stages_are_trained_at_their_own_resolution_and_their_mean_is_the_result(num_classes: int) -> None:
    network, batch = build(num_classes=num_classes, decoder="hsam", hsam_noise=0.0, hsam_dropout=0.0), images()
    with torch.no_grad():
        logits, first, second = network.train()(batch)
        assert torch.equal(network.eval()(batch), logits)
        stages = network._decode(network._encode(batch, Letterbox.of(batch, SIDE)))
    assert (first.shape[2:], second.shape[2:]) == ((9, 16), (33, 64))  # 33 of 64 rows hold the image
    enlarged = F.interpolate(stages[0], size=SIDE, mode="bilinear", align_corners=False)
    mean = ((enlarged + stages[1]) / 2)[..., :33, :]
    if_one = mean if num_classes > 1 else mean[:, 1:] - mean[:, :1]
    expected = F.interpolate(if_one, size=batch.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_seed_gives_the_rest_of_the_network_the_same_weights_with_either_decoder() -> None:
    states = []
    for decoder in ("samed", "hsam"):
        torch.manual_seed(0)
        states.append(SAMora(sam_type="vit_tiny", image_size=SIDE, decoder=decoder).state_dict())
    one, two = states
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    assert {name.split(".")[0] for name in two.keys() - one.keys()} == {"second_decoder"}


def test_the_sigmoid_of_one_object_is_the_softmax_of_two_classes() -> None:
    one, batch = build(num_classes=1), images()
    two = build(num_classes=2)
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(one(batch).sigmoid(), two(batch).softmax(dim=1)[:, 1:])


def test_steps_move_all_of_hl_attention_and_the_decoder_and_no_other_bit() -> None:
    network, batch = start(num_classes=3).train(), images()
    train_experts(network)
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(2):  # in the first one, most of HL-Attn has a gradient of zero
        optimizer.zero_grad()
        network(batch)[1].square().mean().backward()
        optimizer.step()
    changed = {name for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])}
    assert {name for name, _ in network.named_parameters() if name.startswith("hl_attention.")} <= changed
    assert {name.split(".")[0] for name in changed} == {"hl_attention", "mask_decoder"}


@pytest.mark.parametrize("num_classes", [1, 4, 9])
def test_published_weights_load_whatever_the_number_of_classes(num_classes: int, tmp_path: Path) -> None:
    torch.manual_seed(5)
    sam = build_plain_sam("vit_tiny", 128)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    network = start(num_classes=num_classes)
    tokens = network.mask_decoder.mask_tokens.weight.detach().clone()
    network.load_pretrained(tmp_path / "sam.pth")
    assert base_hash(network.image_encoder) == base_hash(sam.image_encoder)
    assert torch.equal(
        network.mask_decoder.transformer.norm_final_attn.weight, sam.mask_decoder.transformer.norm_final_attn.weight
    )
    assert torch.equal(network.mask_decoder.mask_tokens.weight, tokens)


def test_a_seed_gives_the_frozen_encoder_of_a_student_of_stage_1() -> None:
    torch.manual_seed(0)
    student = ExpertsEncoder(build_published_encoder("vit_tiny", 96), ("pixel",))
    assert base_hash(student) == base_hash(start(in_channels=4).image_encoder)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for use_checkpoint in (False, True):
        network = build(use_checkpoint=use_checkpoint).train()
        network(images())[1].square().mean().backward()
        gradients.append([weight.grad for weight in network.hl_attention.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_mixed_precision_stays_close() -> None:
    network, batch = build(num_classes=3), images(1)
    with torch.no_grad():
        expected = network(batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(batch)
    assert found.dtype is torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"sam_type": "vit_x"}, "vit_b"),
        ({"image_size": 100}, "96"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_channels": 0}, "in_channels"),
        ({"experts": ("image", "liver")}, "image, patch, pixel"),
        ({"experts": ("image", "image")}, "each once"),
        ({"experts": "image"}, "each once"),
        ({"expert_signal": "sum"}, "full, delta, got 'sum'"),
        ({"hl_scope": "block"}, "full, window, got 'block'"),
        ({"decoder": "unet"}, "samed, hsam, got 'unet'"),
        ({"decoder": "hsam", "hsam_noise": -1.0}, "strength"),
        ({"hl_blocks": [6]}, r"\[0, 1, 2, 3, 4, 5\], got \[6\]"),
        ({"hl_blocks": []}, "got"),
        ({"lora_blocks": [1, 2], "hl_blocks": [0]}, r"\[1, 2\], got \[0\]"),
        ({"hl_dim": 64}, "num_heads"),
        ({"lora_rank": 0}, "rank"),
        ({"pixel_std": (0, 1, 1)}, "pixel_std"),
    ],
)
def test_wrong_arguments_are_named(knobs: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        start(**knobs)
