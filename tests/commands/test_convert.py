# SPDX-License-Identifier: Apache-2.0
"""`convert`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from sam2_unet.network import SAM2UNet

from monai_ext.commands._bundle import find_bundle
from monai_ext.commands._fire import main
from monai_ext.files import sha256_of
from monai_ext.networks.checkpoints import load_trunk, read_state
from tests.networks.test_checkpoints import as_published, as_sam2, nano


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle's configs, so that default outputs do not go into the project."""
    source = find_bundle("sam2_unet")
    for name in ("configs/inference.json", "configs/metadata.json", "large_files.yml"):
        target = tmp_path / "sam2_unet" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((source / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path / "sam2_unet"


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


def test_monai_can_read_the_list_of_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.bundle import scripts

    text = (find_bundle("sam2_unet") / "large_files.yml").read_text(encoding="utf-8")
    (tmp_path / "large_files.yml").write_text(text, encoding="utf-8")
    asked: list[dict] = []
    monkeypatch.setattr(scripts, "download_url", lambda **entry: asked.append(entry))
    scripts.download_large_files(str(tmp_path))
    assert len(asked) == len(yaml.safe_load(text)["large_files"]) == 8
    for entry in asked:
        assert entry["hash_type"] == "sha256"
        assert len(entry["hash_val"]) == 64
        assert Path(entry["filepath"]).parent.parts[-2:] == ("models", "pretrained")
        assert Path(entry["filepath"]).name == entry["url"].rsplit("/", 1)[1]


@pytest.mark.slow
def test_a_real_size_is_recognised(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(as_sam2(SAM2UNet(backbone="small")), tmp_path / "sam2_hiera_small.pt")
    assert main(["convert", str(bundle), "--source", str(tmp_path / "sam2_hiera_small.pt")]) == 0
    assert "backbone small" in capsys.readouterr().out
