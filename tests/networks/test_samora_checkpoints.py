# SPDX-License-Identifier: Apache-2.0
"""What the weights of SAMora tell of their network, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samora.network import SAMora

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints import WEIGHT_SOURCES, check, import_sam, import_samora
from monai_ext.networks.layers.lora import inject_lora
from monai_ext.networks.nets.sam import build_plain_sam

VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_classes": 9, "in_channels": 4, "experts": ["patch"], "lora_rank": 2},
    {"num_classes": 3, "experts": []},
    {"num_classes": 4, "hl_dim": 12, "hl_blocks": [1, 4], "hl_norm": True, "hl_out_proj": True},
    {"num_classes": 4, "experts": []},
    {"experts": ["image", "pixel"], "lora_blocks": [0, 2, 3], "image_size": 96},
    {"num_classes": 4, "experts": [], "decoder": "hsam"},
]


@pytest.mark.parametrize("knobs", VARIANTS)
def test_a_network_is_built_again_from_what_its_weights_tell(knobs: dict[str, Any]) -> None:
    network = SAMora(**{"sam_type": "vit_tiny", "image_size": 64, **knobs})
    imported = import_samora(network.state_dict())
    told = {**imported.knobs, "in_channels": imported.knobs.get("in_channels", 1)}
    again = SAMora(**told)  # type: ignore[arg-type]
    check(imported.state, again.state_dict(), "the weights told")
    assert {name: told[name] for name in knobs} == knobs


def test_one_object_and_two_classes_have_the_same_weights() -> None:
    imported = import_samora(SAMora(num_classes=2, sam_type="vit_tiny", image_size=64).state_dict())
    assert (imported.kind, imported.knobs["num_classes"]) == ("samora", 1)
    assert imported.ambiguous == {"num_classes": (1, 2)}


def test_plain_segment_anything_is_the_foundation_and_fits_the_network_that_convert_builds() -> None:
    imported = import_samora(build_plain_sam("vit_tiny", 64).state_dict())
    assert (imported.kind, imported.foundation_only) == ("sam", True)
    network = SAMora(**imported.knobs)  # type: ignore[arg-type]
    source = WEIGHT_SOURCES["samora"]
    check(imported.state, source.foundation(network), "plain SAM")
    assert set(source.foundation_knobs) == {"sam_type", "image_size"}


def test_low_rank_updates_of_another_method_are_refused() -> None:
    sam = build_plain_sam("vit_tiny", 64)
    inject_lora(sam.image_encoder)
    assert import_sam(sam.state_dict()).knobs["tuning"] == "lora"
    with pytest.raises(InputError, match="no experts of SAMora; merge them first"):
        import_samora(sam.state_dict(), "other.pt")


def test_another_network_is_refused() -> None:
    with pytest.raises(InputError, match="not Segment Anything's"):
        import_samora(torch.nn.Linear(2, 2).state_dict())
