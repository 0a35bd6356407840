# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's weights: recognised, resized as the package itself would, loaded, and given back."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints import (
    check,
    fit_sam,
    import_sam,
    load_sam,
    plain_sam_state,
    resize_plain_sam,
    sam_state,
)
from monai_ext.networks.layers.lora import inject_lora, lora_state
from monai_ext.networks.layers.lora_experts import inject_experts, select_expert
from monai_ext.networks.nets.sam import (
    SAM_PRESETS,
    build_mask_decoder,
    build_plain_sam,
    build_prompt_encoder,
    build_published_encoder,
    build_sam_encoder,
)

GLOBAL = SAM_PRESETS["vit_tiny"].global_blocks
PUBLISHED = {"vit_b": (314, 93_735_472), "vit_l": (482, 312_342_832), "vit_h": (594, 641_090_608)}
TOKENS = ("mask_decoder.mask_tokens.", "mask_decoder.output_hypernetworks_mlps.", "mask_decoder.iou_prediction_head.")


class Network(nn.Module):
    """The three parts, as every network on Segment Anything has them."""

    def __init__(self, image_size: int = 64, num_classes: int = 1, lora_rank: int = 0, blocks: list | None = None):
        super().__init__()
        self.num_classes = num_classes
        self.image_encoder = build_sam_encoder("vit_tiny", image_size)
        self.prompt_encoder = build_prompt_encoder(image_size)
        self.mask_decoder = build_mask_decoder(4 if num_classes == 1 else num_classes)
        if lora_rank:
            inject_lora(self.image_encoder, lora_rank, blocks=blocks)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every weight, above all the positions and updates that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.state_dict().values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def plain() -> Sam:
    return randomised(build_plain_sam("vit_tiny", 128))


@pytest.fixture(scope="module")
def published(plain: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "sam_vit_tiny.pth"
    torch.save(plain.state_dict(), path)
    return path


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in state.items()}


def assert_same(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert list(state) == list(other)
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


@pytest.mark.parametrize("sam_type", ["vit_b", "vit_l", "vit_h"])
def test_published_layouts_are_recognised_by_names_and_shapes(sam_type: str) -> None:
    with torch.device("meta"):  # a layout is names and shapes
        state = build_plain_sam(sam_type).state_dict()
    parameters = sum(weight.numel() for name, weight in state.items() if "gaussian" not in name)
    assert (len(state), parameters) == PUBLISHED[sam_type]
    imported = import_sam(state)
    assert (imported.kind, imported.foundation_only, imported.left_out) == ("sam", True, ())
    assert imported.knobs == {"sam_type": sam_type, "image_size": 1024, "num_classes": 1, "tuning": "full"}
    assert imported.ambiguous == {"num_classes": (1, 4)}


def test_saved_pixel_statistics_are_left_out(plain: Sam) -> None:
    imported = import_sam({**plain.state_dict(), "pixel_mean": plain.pixel_mean, "pixel_std": plain.pixel_std})
    assert (imported.kind, imported.left_out) == ("sam", ("pixel_mean", "pixel_std"))


def test_our_own_files_tell_the_networks_arguments() -> None:
    state = Network(96, num_classes=5, lora_rank=3, blocks=[1, 4]).state_dict()
    imported = import_sam({**state, "stem.weight": torch.rand(3, 2, 1, 1), "stem.bias": torch.rand(3)})
    assert (imported.kind, imported.foundation_only, imported.ambiguous) == ("own", False, {})
    assert imported.knobs == {
        "sam_type": "vit_tiny",
        "image_size": 96,
        "num_classes": 5,
        "tuning": "lora",
        "lora_rank": 3,
        "lora_blocks": [1, 4],
        "in_channels": 2,
    }
    assert "lora_blocks" not in import_sam(Network(lora_rank=2).state_dict()).knobs
    assert import_sam(Network(num_classes=4, lora_rank=2).state_dict()).ambiguous == {"num_classes": (1, 4)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight": torch.rand(3, 2)}, r"begins with weight 3x2; these are another network's weights"),
        ({"image_encoder.trunk.pos_embed": torch.rand(1, 2)}, r"these are a SAM 2 checkpoint"),
    ],
)
def test_other_weights_are_refused(change: dict[str, Tensor], told: str) -> None:
    with pytest.raises(InputError, match=told):
        import_sam(change, "x.pth")


def test_an_encoder_of_another_size_is_refused(plain: Sam) -> None:
    state = {name: weight for name, weight in plain.state_dict().items() if ".blocks.5." not in name}
    with pytest.raises(InputError, match="192 channels and 5 blocks is none of Segment Anything's"):
        import_sam(state)
    oblong = {**plain.state_dict(), "image_encoder.pos_embed": torch.rand(1, 8, 4, 192)}
    with pytest.raises(InputError, match="pos_embed is 1x8x4x192, must be square"):
        import_sam(oblong)


def resized_at_run_time(encoder: ImageEncoderViT, image_size: int) -> ImageEncoderViT:
    """The package's encoder for another size, whose attention resizes its tables itself, each time that it runs."""
    other = build_published_encoder("vit_tiny", image_size)
    positions = encoder.pos_embed.detach().permute(0, 3, 1, 2)
    positions = nn.functional.interpolate(positions, (image_size // 16, image_size // 16), mode="bilinear")
    for index in GLOBAL:
        other.blocks[index].attn = copy.deepcopy(encoder.blocks[index].attn)
    other.load_state_dict({**encoder.state_dict(), "pos_embed": positions.permute(0, 2, 3, 1)})
    return other.eval()


@pytest.mark.parametrize("image_size", [64, 208, 256])
def test_resized_weights_give_what_the_package_computes_when_it_resizes_them_itself(
    plain: Sam, image_size: int
) -> None:
    pixels = torch.rand(1, 3, image_size, image_size)
    encoder = build_published_encoder("vit_tiny", image_size).eval()
    state = {n: w for n, w in plain.state_dict().items() if n.startswith("image_encoder.")}
    fitted = fit_sam(state, {f"image_encoder.{n}": w for n, w in encoder.state_dict().items()}, GLOBAL)
    encoder.load_state_dict({name.removeprefix("image_encoder."): weight for name, weight in fitted.items()})
    with torch.no_grad():
        expected = resized_at_run_time(plain.image_encoder, image_size)(pixels)
        torch.testing.assert_close(encoder(pixels), expected, rtol=0, atol=2.4e-7)


def test_only_positions_and_the_tables_of_global_blocks_are_resized(plain: Sam) -> None:
    state = plain.state_dict()
    fitted = fit_sam(state, build_plain_sam("vit_tiny", 256).state_dict(), GLOBAL)
    changed = {name for name, weight in fitted.items() if weight is not state[name]}
    tables = {f"image_encoder.blocks.{index}.attn.rel_pos_{side}" for index in GLOBAL for side in "hw"}
    assert changed == {"image_encoder.pos_embed"} | tables
    assert fitted["image_encoder.blocks.2.attn.rel_pos_h"].shape == (31, 64)
    assert fitted["image_encoder.blocks.0.attn.rel_pos_h"].shape == (27, 64)


def test_global_blocks_are_chosen_by_index_and_not_by_a_digit_in_the_name() -> None:
    names = [f"image_encoder.blocks.{index}.attn.rel_pos_h" for index in (2, 12, 20, 23)]
    fitted = fit_sam(dict.fromkeys(names, torch.rand(27, 8)), dict.fromkeys(names, torch.rand(63, 8)), (5, 11, 17, 23))
    assert [len(fitted[name]) for name in names] == [27, 27, 27, 63]


def test_weights_come_back_up_to_the_published_size(plain: Sam) -> None:
    state = plain.state_dict()
    small = resize_plain_sam(state, "vit_tiny", 64)
    build_plain_sam("vit_tiny", 64).load_state_dict(small)
    large = resize_plain_sam(small, "vit_tiny", 128)
    check(large, state, "the way back")
    same = [name for name, weight in large.items() if torch.equal(weight, state[name])]
    assert len(state) - len(same) == 1 + 2 * len(GLOBAL)
    with pytest.raises(ValueError, match="multiple of 16"):
        resize_plain_sam(state, "vit_tiny", 100)


@pytest.mark.parametrize("image_size", [64, 128])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_published_weights_fill_the_three_parts_and_leave_updates_alone(
    published: Path, plain: Sam, image_size: int, lora_rank: int, caplog: pytest.LogCaptureFixture
) -> None:
    network = randomised(Network(image_size, lora_rank=lora_rank), seed=1)
    updates = lora_state(network)
    with caplog.at_level(logging.INFO):
        assert load_sam(network, published) is network
    expected = resize_plain_sam(plain.state_dict(), "vit_tiny", image_size)
    assert all(torch.equal(weight, expected[name]) for name, weight in sam_state(network).items())
    assert set(sam_state(network)) == set(expected)
    assert_same(lora_state(network), updates)
    assert "Loaded Segment Anything (vit_tiny" in caplog.text
    assert ("resized from 128 to 64" in caplog.text) == (image_size == 64)


@pytest.mark.parametrize("num_classes", [3, 4])
def test_several_classes_start_with_tokens_of_their_own(published: Path, plain: Sam, num_classes: int) -> None:
    network = randomised(Network(num_classes=num_classes), seed=1)
    before, expected = copied(network.state_dict()), resize_plain_sam(plain.state_dict(), "vit_tiny", 64)
    load_sam(network, published)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name] if name.startswith(TOKENS) else expected[name])


def test_the_choice_of_tokens_can_be_made_explicitly(published: Path, plain: Sam) -> None:
    network = Network(128, num_classes=4)
    load_sam(network, published, new_tokens=False)
    assert_same(network.state_dict(), plain.state_dict())
    with pytest.raises(InputError, match=r"mask_tokens\.weight is 4x256, must be 3x256"):
        load_sam(Network(128, num_classes=3), published, new_tokens=False)


def test_without_weights_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    network = Network()
    before = copied(network.state_dict())
    with caplog.at_level(logging.WARNING):
        assert load_sam(network, None) is network
    assert "part of the network is random" in caplog.text
    assert_same(network.state_dict(), before)


def test_another_type_is_refused_with_names_and_shapes(published: Path) -> None:
    network = Network(128)
    network.image_encoder = nn.ModuleDict({"neck": nn.Conv2d(8, 256, 1, bias=False)})
    with pytest.raises(InputError, match=r"sam_vit_tiny\.pth \(vit_tiny, image_size 128\): does not fit.*unexpected"):
        load_sam(network, published)


def test_of_a_network_of_ours_the_foundation_is_taken_and_the_rest_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = randomised(Network(lora_rank=2))
    torch.save(source.state_dict(), tmp_path / "model.pt")
    network = Network(lora_rank=3)
    with caplog.at_level(logging.WARNING):
        load_sam(network, tmp_path / "model.pt")
    assert_same(sam_state(network), sam_state(source))
    assert "only its Segment Anything part was taken, not lora_q_down" in caplog.text


def test_merged_weights_load_strictly_into_the_package_and_compute_the_same() -> None:
    network = randomised(Network(lora_rank=2))
    before = copied(network.state_dict())
    plain = build_plain_sam("vit_tiny", 64)
    plain.load_state_dict(plain_sam_state(network), strict=True)
    assert_same(network.state_dict(), before)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain.image_encoder(pixels), network.image_encoder(pixels), rtol=0, atol=1e-5)


def test_of_several_experts_the_selected_one_is_merged() -> None:
    network = Network()
    inject_experts(network.image_encoder, ("liver", "spleen"), rank=2)
    randomised(network)
    pixels, plain = torch.rand(1, 3, 64, 64), build_plain_sam("vit_tiny", 64)
    embeddings = []
    for expert in ("liver", "spleen", None):
        select_expert(network, expert)
        plain.load_state_dict(plain_sam_state(network), strict=True)
        with torch.no_grad():
            embeddings.append(network.image_encoder(pixels))
            torch.testing.assert_close(plain.image_encoder(pixels), embeddings[-1], rtol=0, atol=1e-5)
    assert not torch.allclose(embeddings[0], embeddings[1])
    assert not torch.allclose(embeddings[0], embeddings[2])
