# SPDX-License-Identifier: Apache-2.0
"""`convert`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from sam2_unet.network import SAM2UNet
from sam_sp.network import SAMSP
from torch import Tensor

from monai_ext.commands._bundle import find_bundle
from monai_ext.commands._fire import main
from monai_ext.files import sha256_of
from monai_ext.networks.checkpoints import load_sam, load_trunk, read_state
from monai_ext.networks.nets.sam import build_plain_sam
from tests.networks.test_checkpoints import as_published, as_sam2, nano


def copy_of(bundle: str, folder: Path) -> Path:
    """A copy of a bundle's configs, so that default outputs do not go into the project."""
    for name in ("configs/inference.json", "configs/metadata.json", "large_files.yml"):
        target = folder / bundle / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((find_bundle(bundle) / name).read_text(encoding="utf-8"), encoding="utf-8")
    return folder / bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_of("sam2_unet", tmp_path)


@pytest.fixture
def sam_sp(tmp_path: Path) -> Path:
    return copy_of("sam_sp", tmp_path)


def plain_sam(image_size: int = 128) -> dict[str, Tensor]:
    """Segment Anything's layout, in our smallest size."""
    return build_plain_sam("vit_tiny", image_size).state_dict()


def test_sam2_becomes_a_trunk_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    network = nano()
    torch.save(as_sam2(network, later=True), tmp_path / "sam2.1.pt")
    assert main(["convert", str(bundle), "--source", str(tmp_path / "sam2.1.pt")]) == 0
    shown = capsys.readouterr().out
    count = len(network.state_dict()) - sum(
        "prompt_learn" in n or not n.startswith("encoder.") for n in network.state_dict()
    )
    assert "sam2, backbone nano" in shown
    assert f"{count} keys matched, 0 missing, 0 unexpected, 0 of another shape; 4 left out on purpose" in shown
    trunk = bundle / "models" / "pretrained" / "trunk.pt"
    assert len(torch.load(trunk, weights_only=True)) == count
    record = json.loads((bundle / "models" / "pretrained" / "trunk.pt.json").read_text(encoding="utf-8"))
    assert record["source"] == "sam2.1.pt"
    assert record["source_sha256"] == sha256_of(tmp_path / "sam2.1.pt")
    assert record["sha256"] == sha256_of(trunk)
    assert record["knobs"] == {"backbone": "nano"}
    assert record["licence"].startswith("Apache-2.0")
    load_trunk(nano(tuning="lora"), trunk)


def test_published_weights_become_a_whole_model_in_safetensors(bundle: Path, tmp_path: Path) -> None:
    network = nano(num_classes=2)
    torch.save(as_published(network), tmp_path / "SAM2UNet.pth")
    output = tmp_path / "model.safetensors"
    assert main(["convert", str(bundle), "--source", str(tmp_path / "SAM2UNet.pth"), "--output", str(output)]) == 0
    loaded = nano(num_classes=2)
    loaded.load_state_dict(read_state(output), strict=True)
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded(image), network(image), rtol=0, atol=0)


def test_an_existing_output_is_kept_unless_told(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(as_sam2(nano()), tmp_path / "sam2.pt")
    (bundle / "models" / "pretrained").mkdir(parents=True)
    (bundle / "models" / "pretrained" / "trunk.pt").write_text("precious", encoding="utf-8")
    words = ["convert", str(bundle), "--source", str(tmp_path / "sam2.pt")]
    assert main(words) == 1
    assert "trunk.pt: exists" in capsys.readouterr().err
    assert (bundle / "models" / "pretrained" / "trunk.pt").read_text(encoding="utf-8") == "precious"
    assert main([*words, "--overwrite"]) == 0
    read_state(bundle / "models" / "pretrained" / "trunk.pt")


def test_weights_with_a_hole_write_nothing(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = as_published(nano())
    state["rfb2.conv_res.conv.weight"] = torch.rand(3)
    torch.save(state, tmp_path / "hole.pth")
    assert main(["convert", str(bundle), "--source", str(tmp_path / "hole.pth")]) == 1
    assert "rfb2.conv_res.conv.weight is 3, must be 8x32x1x1" in capsys.readouterr().err
    assert not (bundle / "models").exists()


def test_a_missing_file_says_where_to_get_it(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["convert", str(bundle), "--source", "somewhere/sam2.1_hiera_small.pt"]) == 1
    shown = capsys.readouterr().err
    assert "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_small.pt" in shown
    assert "sam2_unet/models/pretrained/sam2.1_hiera_small.pt" in shown
    assert "tiny" not in shown
    assert main(["convert", str(bundle)]) == 1
    assert capsys.readouterr().err.count("https://dl.fbaipublicfiles.com/") == 8


def test_a_bundle_without_published_weights_says_so(toy: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["convert", str(toy), "--source", str(toy / "models" / "model.pt")]) == 1
    assert "there are no published weights to import" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sam2_unet", "sam_sp"])
def test_monai_can_read_the_list_of_large_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.bundle import scripts

    text = (find_bundle(name) / "large_files.yml").read_text(encoding="utf-8")
    (tmp_path / "large_files.yml").write_text(text, encoding="utf-8")
    asked: list[dict] = []
    monkeypatch.setattr(scripts, "download_url", lambda **entry: asked.append(entry))
    scripts.download_large_files(str(tmp_path))
    assert len(asked) == len(yaml.safe_load(text)["large_files"]) == {"sam2_unet": 8, "sam_sp": 3}[name]
    for entry in asked:
        assert entry["hash_type"] == "sha256"
        assert len(entry["hash_val"]) == 64
        assert Path(entry["filepath"]).parent.parts[-2:] == ("models", "pretrained")
        assert Path(entry["filepath"]).name == entry["url"].rsplit("/", 1)[1]


def test_segment_anything_becomes_a_foundation_file(
    sam_sp: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = plain_sam()
    torch.save({**state, "pixel_mean": torch.rand(3, 1, 1)}, tmp_path / "sam.pth")
    assert main(["convert", str(sam_sp), "--source", str(tmp_path / "sam.pth")]) == 0
    shown = capsys.readouterr().out
    assert "sam, sam_type vit_tiny, image_size 128\n" in shown
    assert f"{len(state)} keys matched, 0 missing, 0 unexpected, 0 of another shape; 1 left out on purpose" in shown
    written = sam_sp / "models" / "pretrained" / "sam.pt"
    record = json.loads(written.with_name("sam.pt.json").read_text(encoding="utf-8"))
    assert record["knobs"] == {"sam_type": "vit_tiny", "image_size": 128}
    assert "Apache-2.0" in record["licence"]
    assert all(torch.equal(weight, state[name]) for name, weight in read_state(written).items())
    load_sam(SAMSP(sam_type="vit_tiny", image_size=64), written)


def test_a_network_of_ours_is_converted_whole(sam_sp: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    network = SAMSP(in_channels=2, num_classes=3, sam_type="vit_tiny", image_size=64, lora_rank=2, lora_blocks=[5])
    torch.save(network.state_dict(), tmp_path / "ours.pt")
    output = tmp_path / "ours.safetensors"
    assert main(["convert", str(sam_sp), "--source", str(tmp_path / "ours.pt"), "--output", str(output)]) == 0
    assert "num_classes 3, tuning lora, lora_rank 2, lora_blocks [5], in_channels 2" in capsys.readouterr().out
    network.load_state_dict(read_state(output), strict=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mask_decoder.iou_token.weight": torch.rand(2, 256)}, "iou_token.weight is 2x256, must be 1x256"),
        ({"mask_decoder.strange": torch.rand(2)}, "unexpected: mask_decoder.strange 2"),
        ({"image_encoder.pos_embed": torch.rand(3)}, "begins with image_encoder.pos_embed 3"),
    ],
)
def test_what_is_no_segment_anything_is_refused_with_names_and_shapes(
    sam_sp: Path, tmp_path: Path, change: dict, told: str, capsys: pytest.CaptureFixture
) -> None:
    torch.save({**plain_sam(64), **change}, tmp_path / "other.pth")
    assert main(["convert", str(sam_sp), "--source", str(tmp_path / "other.pth")]) == 1
    shown = capsys.readouterr().err
    assert told in shown
    assert len(shown.splitlines()) == 1
    assert not (sam_sp / "models").exists()


def test_each_bundle_names_its_own_published_files(sam_sp: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["convert", str(sam_sp), "--source", "sam_vit_l_0b3195.pth"]) == 1
    shown = capsys.readouterr().err
    assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth" in shown
    assert "vit_b" not in shown


@pytest.mark.slow
def test_a_real_size_is_recognised(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(as_sam2(SAM2UNet(backbone="small")), tmp_path / "sam2_hiera_small.pt")
    assert main(["convert", str(bundle), "--source", str(tmp_path / "sam2_hiera_small.pt")]) == 0
    assert "backbone small" in capsys.readouterr().out
