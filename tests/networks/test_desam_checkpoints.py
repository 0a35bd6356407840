# SPDX-License-Identifier: Apache-2.0
"""DeSAM's weights: Segment Anything's to start from, and whole networks, ours and the published code's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from desam.network import DeSAM
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints import check, import_desam, load_desam, sam_state
from monai_ext.networks.layers.lora import inject_lora
from monai_ext.networks.nets.sam import build_plain_sam


def tiny(**knobs: object) -> DeSAM:
    return DeSAM(**{"sam_type": "vit_tiny", "image_size": 64, "in_channels": 1, **knobs})  # type: ignore[arg-type]


def published(image_size: int = 64) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {name: torch.randn_like(w) for name, w in build_plain_sam("vit_tiny", image_size).state_dict().items()}


def test_segment_anything_loads_and_the_mask_module_stays(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "sam.pth")
    network = tiny()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    load_desam(network, tmp_path / "sam.pth")
    after = network.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in published().items())
    rest = set(after) - set(published())
    assert len(rest) == 52
    assert all(torch.equal(after[name], before[name]) for name in rest)


def test_weights_of_another_size_are_resized(tmp_path: Path) -> None:
    torch.save(published(128), tmp_path / "sam.pth")
    network = tiny().load_pretrained(tmp_path / "sam.pth")
    assert network.image_encoder.pos_embed.shape == (1, 4, 4, 192)


@pytest.mark.parametrize(("num_classes", "kept"), [(1, True), (5, True), (6, False)])
def test_more_objects_than_the_published_tokens_start_anew(num_classes: int, kept: bool, tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "sam.pth")
    tokens = tiny(num_classes=num_classes).load_pretrained(tmp_path / "sam.pth").mask_decoder.mask_tokens.weight
    fits = tokens.shape == (4, 256) and torch.equal(tokens, published()["mask_decoder.mask_tokens.weight"])
    assert fits is kept
    assert len(tokens) == max(4, num_classes - 1)


@pytest.mark.parametrize("num_classes", [1, 3, 8])
def test_a_whole_network_is_recognised(num_classes: int) -> None:
    network = tiny(num_classes=num_classes, in_channels=4)
    imported = import_desam(network.state_dict())
    assert imported.kind == "desam"
    assert not imported.foundation_only
    assert imported.knobs == {"sam_type": "vit_tiny", "image_size": 64, "in_channels": 4, "num_classes": num_classes}
    check(imported.state, DeSAM(**imported.knobs).state_dict(), "itself")


def test_plain_weights_are_a_foundation_that_fits_the_networks_own_part() -> None:
    imported = import_desam(published())
    assert (imported.kind, imported.foundation_only) == ("sam", True)
    assert len(check(imported.state, sam_state(tiny()), "it").matched) == len(published())


def test_only_the_published_part_of_a_whole_network_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(tiny().state_dict(), tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING):
        load_desam(tiny(), tmp_path / "model.pt")
    assert "mask_decoder.pimm" in caplog.text


def test_low_rank_updates_have_no_place_here() -> None:
    sam = build_plain_sam("vit_tiny", 64)
    inject_lora(sam.image_encoder, 2)
    with pytest.raises(InputError, match="merge"):
        import_desam(sam.state_dict())


def test_without_weights_it_says_where_to_get_some(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tiny().load_pretrained(None)
    assert "large_files.yml" in caplog.text
