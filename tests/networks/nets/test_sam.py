# SPDX-License-Identifier: Apache-2.0
"""Builders of Segment Anything's parts: published names, numbers and sizes."""

from __future__ import annotations

import pytest
import torch
from segment_anything import sam_model_registry

from monai_ext.networks.nets.sam import (
    SAM_PRESETS,
    build_mask_decoder,
    build_plain_sam,
    build_prompt_encoder,
    build_sam_encoder,
)

ENCODERS = {
    ("vit_b", 1024): 89_670_912, ("vit_b", 512): 87_278_848, ("vit_b", 224): 86_624_512,
    ("vit_l", 1024): 308_278_272, ("vit_l", 512): 305_099_776, ("vit_l", 224): 304_233_472,
    ("vit_h", 1024): 637_026_048, ("vit_h", 512): 633_052_928, ("vit_h", 224): 631_970_048,
}  # fmt: skip


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("sam_type", ["vit_b", "vit_l", "vit_h"])
def test_at_1024_it_is_the_packages_own(sam_type: str) -> None:
    with torch.device("meta"):
        ours, published = build_plain_sam(sam_type), sam_model_registry[sam_type]()
    shapes = {name: weight.shape for name, weight in published.state_dict().items()}
    assert {name: weight.shape for name, weight in ours.state_dict().items()} == shapes
    assert len(shapes) == {"vit_b": 314, "vit_l": 482, "vit_h": 594}[sam_type]


@pytest.mark.parametrize(("sam_type", "image_size"), ENCODERS)
def test_encoders_have_the_known_numbers_of_parameters(sam_type: str, image_size: int) -> None:
    with torch.device("meta"):
        assert count(build_sam_encoder(sam_type, image_size)) == ENCODERS[sam_type, image_size]


def test_the_other_parts_do_too() -> None:
    assert count(build_prompt_encoder(512)) == 6_220
    assert [count(build_mask_decoder(tokens)) for tokens in (2, 4, 9)] == [3_777_698, 4_058_340, 4_759_945]


def test_global_blocks_are_the_published_ones() -> None:
    with torch.device("meta"):
        for name, preset in SAM_PRESETS.items():
            encoder = build_sam_encoder(name, 1024)
            tables = {i for i, block in enumerate(encoder.blocks) if block.attn.rel_pos_h.shape[0] == 127}
            assert tables == set(preset.global_blocks)


@pytest.mark.parametrize(("size", "offer"), [(100, "96"), (8, "16"), (0, "16"), (1000, "992|1008"), (512.0, "512")])
def test_a_size_that_cannot_be_cut_is_named_with_one_that_can(size: int, offer: str) -> None:
    with pytest.raises(ValueError, match=offer):
        build_sam_encoder("vit_tiny", size)


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(ValueError, match="vit_b, vit_l, vit_h"):
        build_sam_encoder("vit_huge")
    with pytest.raises(ValueError, match="num_mask_tokens"):
        build_mask_decoder(0)
