# SPDX-License-Identifier: Apache-2.0
"""SAM2UNet: the contract, the published counts, tunings and tasks."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from sam2_unet.network import SAM2UNet
from torch import Tensor

from monai_ext.networks.layers.trained_state import load_trained_state, trained_names, trained_state
from monai_ext.networks.nets.hiera import build_sam2_trunk
from tests.contracts import NetworkContract


def small(**arguments: object) -> SAM2UNet:
    return SAM2UNet(**{"backbone": "nano", "decoder_channels": 8, **arguments})  # type: ignore[arg-type]


class TestPublished(NetworkContract):
    key_count = 492
    some_keys = (
        "encoder.pos_embed_window",
        "encoder.blocks.0.block.attn.qkv.weight",
        "encoder.blocks.1.block.proj.bias",
        "encoder.blocks.4.prompt_learn.2.bias",
        "rfb1.branch3.3.bn.running_var",
        "rfb4.conv_res.conv.weight",
        "up3.conv.double_conv.4.weight",
        "side1.bias",
        "head.weight",
    )

    def build(self) -> nn.Module:
        return small()

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return torch.rand(batch, 3, height, width)

    def out_channels(self) -> int:
        return 1


class TestLoRAAttentionFourModalities(TestPublished):
    key_count = 557
    some_keys = ("stem.weight", "encoder.blocks.0.block.attn.qkv.lora_q_up", "up2.gate.psi.0.conv.weight")

    def build(self) -> nn.Module:
        return small(in_channels=4, num_classes=13, tuning="lora", decoder_attention=True, image_size=64)

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return torch.rand(batch, 4, height, width)

    def out_channels(self) -> int:
        return 13


@pytest.mark.parametrize(
    ("backbone", "trunk", "adapters", "trainable", "total", "trunk_keys", "keys"),
    [
        ("tiny", 26_849_472, 262_464, 2_698_243, 29_547_715, 154, 616),
        ("small", 33_947_328, 362_432, 2_798_211, 36_745_539, 202, 680),
        ("base_plus", 68_675_712, 648_688, 3_161_267, 71_836_979, 298, 808),
        ("large", 212_149_296, 1_714_416, 4_380_595, 216_529_891, 586, 1192),
    ],
)
def test_counts_are_the_published_ones(
    backbone: str, trunk: int, adapters: int, trainable: int, total: int, trunk_keys: int, keys: int
) -> None:
    network = SAM2UNet(backbone=backbone)
    up4_weights, up4_keys = 110_848, 12  # published, never used, not built here
    weights = {n: p.numel() for n, p in network.named_parameters()}
    in_trunk = {n for n in weights if n.startswith("encoder.") and "prompt_learn" not in n}
    assert sum(weights[n] for n in in_trunk) == trunk
    assert sum(n for k, n in weights.items() if "prompt_learn" in k) == adapters
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trainable - up4_weights
    assert sum(weights.values()) == total - up4_weights
    assert len(in_trunk) == trunk_keys
    assert len(network.state_dict()) == keys - up4_keys


class Reference(nn.Module):
    """The published forward pass over our weights, written from the specification with the package's trunk."""

    def __init__(self, network: SAM2UNet, backbone: str) -> None:
        super().__init__()
        self.network = network
        self.trunk = build_sam2_trunk(backbone)
        renamed = {n.replace(".block.", "."): w for n, w in network.encoder.state_dict().items()}
        self.trunk.load_state_dict({n: w for n, w in renamed.items() if "prompt_learn" not in n})

    def forward(self, image: Tensor) -> list[Tensor]:
        n = self.network
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        x = (image - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        x = self.trunk.patch_embed(x)
        x = x + self.trunk._get_pos_embed(x.shape[1:3])
        levels = []
        for i, block in enumerate(self.trunk.blocks):
            x = block(x + n.encoder.blocks[i].prompt_learn(x))
            if i in self.trunk.stage_ends:
                levels.append(x.permute(0, 3, 1, 2))
        r1, r2, r3, r4 = (rfb(v) for rfb, v in zip((n.rfb1, n.rfb2, n.rfb3, n.rfb4), levels, strict=True))
        outputs, deep = [], r4
        for up, skip, head, scale in ((n.up1, r3, n.side1, 16), (n.up2, r2, n.side2, 8), (n.up3, r1, n.head, 4)):
            doubled = F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=True)
            deep = up.conv.double_conv(torch.cat([skip, doubled], dim=1))
            outputs.append(F.interpolate(head(deep), scale_factor=scale, mode="bilinear"))
        return [outputs[2], outputs[0], outputs[1]]


def test_all_three_outputs_equal_the_published_forward() -> None:
    network = small().train()
    reference, image = Reference(network, "nano"), torch.rand(2, 3, 96, 160)
    with torch.no_grad():
        for ours, expected in zip(network(image), reference(image), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_inference_gives_the_main_output() -> None:
    network, image = small().eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image), Reference(network, "nano").eval()(image)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 1), (3, 2), (4, 13), (2, 1)])
def test_any_number_of_channels_and_classes(in_channels: int, num_classes: int) -> None:
    network = small(in_channels=in_channels, num_classes=num_classes).train()
    outputs = network(torch.rand(2, in_channels, 33, 47))
    assert [tuple(o.shape) for o in outputs] == [(2, num_classes, 33, 47)] * 3


def test_one_channel_is_repeated() -> None:
    network = small(in_channels=1)
    grey = torch.rand(1, 1, 8, 8)
    rgb = small(in_channels=3).preprocess(grey.expand(-1, 3, -1, -1))
    assert torch.equal(network.preprocess(grey), rgb)


def test_image_size_resizes_inside() -> None:
    network, image = small(image_size=(64, 96)).eval(), torch.rand(1, 3, 50, 40)
    plain = small().eval()
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        inside = network(image)
        outside = plain(F.interpolate(image, (64, 96), mode="bilinear"))
    torch.testing.assert_close(inside, F.interpolate(outside, (50, 40), mode="bilinear"), atol=1e-6, rtol=1e-5)


def test_a_trace_with_fixed_image_size_fits_images_of_any_size() -> None:
    network = small(image_size=64).eval()
    traced = torch.jit.trace(network, torch.rand(1, 3, 64, 64), check_trace=False)
    image = torch.rand(3, 3, 41, 90)
    with torch.no_grad():
        torch.testing.assert_close(traced(image), network(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("tuning", "encoder_trains"),
    [("adapter", "prompt_learn"), ("lora", "lora_"), ("full", ""), ("frozen", None)],
)
def test_tuning_trains_what_it_says(tuning: str, encoder_trains: str | None) -> None:
    weights = dict(small(tuning=tuning).named_parameters())
    decoder = {n for n in weights if not n.startswith("encoder.")}
    chosen = {n for n in weights if n.startswith("encoder.") and encoder_trains is not None and encoder_trains in n}
    assert {n for n, p in weights.items() if p.requires_grad} == decoder | chosen


def test_merged_lora_gives_the_same_logits() -> None:
    network, image = small(tuning="lora").eval(), torch.rand(1, 3, 64, 64)
    for name, weight in network.named_parameters():
        if "lora_" in name and name.endswith("_up"):
            nn.init.normal_(weight)
    with torch.no_grad():
        before = network(image)
        after = network.merge_lora()(image)
    assert not any("lora_" in n for n in network.state_dict())
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_zero_initialised_adapters_leave_the_encoder_as_it_was() -> None:
    adapted, plain = small(adapter_zero_init=True).encoder, small(tuning="frozen").encoder
    plain.load_state_dict({n: w for n, w in adapted.state_dict().items() if "prompt_learn" not in n})
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(adapted(image), plain(image), strict=True))


def test_switching_tasks_and_back_is_bit_identical() -> None:
    network, image = small().eval(), torch.rand(1, 3, 64, 64)
    trunk = {n: w.clone() for n, w in network.state_dict().items() if n not in trained_names(network)}
    liver = trained_state(network)
    tumour = {n: w + 1 if w.is_floating_point() else w for n, w in liver.items()}
    with torch.no_grad():
        first = network(image)
        load_trained_state(network, tumour)
        other = network(image)
        load_trained_state(network, liver)
        assert torch.equal(network(image), first)
    assert not torch.equal(other, first)
    assert all(torch.equal(network.state_dict()[n], w) for n, w in trunk.items())


def test_a_task_file_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="have another shape"):
        load_trained_state(small(), trained_state(small(num_classes=3)))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"tuning": "prompt"}, "tuning"),
        ({"backbone": "huge"}, "backbone"),
        ({"num_classes": 0}, "num_classes"),
        ({"pixel_mean": [0.5]}, "pixel_mean"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        small(**arguments)
