# SPDX-License-Identifier: Apache-2.0
"""Exported weights of networks on Segment Anything are plain Segment Anything again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from sam_sp.network import SAMSP
from torch import Tensor

from monai_ext.commands._fire import main
from monai_ext.errors import InputError
from monai_ext.networks.checkpoints import import_sam, plain_sam_state, read_state
from monai_ext.networks.nets.sam import build_plain_sam
from monai_ext.shipping.plain_sam import require_plain_size, write_plain_sam
from tests.networks.test_sam_checkpoints import Network, randomised

OURS = {"in_channels": 1, "sam_type": "vit_tiny", "image_size": 64, "lora_rank": 2}


class Exported(Network):
    def plain_sam_state(self) -> dict[str, Tensor]:
        return plain_sam_state(self)


class WronglyMerged(Network):
    def plain_sam_state(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.state_dict().items() if "lora_" not in name}


def test_the_file_loads_into_the_package_and_encodes_the_same(tmp_path: Path) -> None:
    network = randomised(Exported(lora_rank=2))
    record = write_plain_sam(network, tmp_path / "plain_sam.pth", 1e-4)
    assert record["passed"]
    assert record["max_abs_difference"] < 1e-4
    assert (record["sam_type"], record["img_size"], record["num_mask_tokens"]) == ("vit_tiny", 64, 4)
    assert "build Segment Anything with img_size 64" in record["note"]
    plain = build_plain_sam("vit_tiny", 64)
    plain.load_state_dict(torch.load(tmp_path / "plain_sam.pth", weights_only=True), strict=True)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain.image_encoder(pixels), network.image_encoder(pixels), rtol=0, atol=1e-4)


def test_updates_that_were_not_merged_are_found(tmp_path: Path) -> None:
    record = write_plain_sam(randomised(WronglyMerged(lora_rank=2)), tmp_path / "plain_sam.pth", 1e-4)
    assert not record["passed"]


def test_positions_come_back_to_the_size_that_the_package_builds(tmp_path: Path) -> None:
    record = write_plain_sam(randomised(Exported()), tmp_path / "plain_sam.pth", 1e-4, image_size=1024)
    assert record["note"] == "position embeddings were resized from 64, for which the weights were trained"
    assert import_sam(read_state(tmp_path / "plain_sam.pth")).knobs["image_size"] == record["img_size"] == 1024


def test_several_classes_are_told(tmp_path: Path) -> None:
    record = write_plain_sam(randomised(Exported(num_classes=5)), tmp_path / "plain_sam.pth", 1e-4)
    assert record["num_mask_tokens"] == 5
    assert "its 5 masks are the classes" in record["note"]


@pytest.mark.parametrize(
    ("network", "size", "told"),
    [
        (nn.Identity(), 1024, "Identity does not stand on Segment Anything"),
        (Exported(), 100, "multiple of 16, got 100"),
    ],
)
def test_a_plain_size_that_cannot_be_is_refused_before_any_work(network: nn.Module, size: int, told: str) -> None:
    require_plain_size(network, None)
    with pytest.raises(InputError, match=told):
        require_plain_size(network, size)


def exported(folder: Path, capsys: pytest.CaptureFixture, *words: str, **arguments: object) -> tuple[dict, str]:
    """Run the command on a SAM-SP of random weights."""
    network = randomised(SAMSP(**{**OURS, **arguments}))
    torch.save(network.state_dict(), folder / "model.pt")
    assert main(["export", "sam_sp", "--ckpt", str(folder / "model.pt"), "--output_dir", str(folder), *words]) == 0
    return json.loads((folder / "parity.json").read_text(encoding="utf-8")), capsys.readouterr().out


def test_the_command_writes_and_proves_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    record, shown = exported(tmp_path, capsys, "--formats", "plain_sam,torchscript", lora_blocks=[1, 4])
    assert "lora_rank 2, lora_blocks [1, 4]" in shown
    assert "the weights also fit num_classes 4: give --num_classes" in shown
    assert record["torchscript"]["passed"]
    assert record["torchscript"]["free_axes"] == ["batch", "height", "width"]
    assert record["torchscript"]["other_max_abs_difference"] <= 1e-4
    assert record["plain_sam"]["passed"]
    assert "onnx" not in record
    assert shown.count(" ok: ") == 2


def test_the_users_number_of_classes_decides_where_weights_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--num_classes", "4", "--formats", "torchscript"]
    record, shown = exported(tmp_path, capsys, *words, num_classes=4)
    assert "also fit" not in shown
    assert "plain_sam" not in record
    assert torch.jit.load(tmp_path / "model.ts")(torch.rand(1, 1, 64, 64)).shape == (1, 4, 64, 64)
