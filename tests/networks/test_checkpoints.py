# SPDX-License-Identifier: Apache-2.0
"""Published weights under our names: layouts, counts, refusals."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
from sam2_unet.network import SAM2UNet
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints import check, compare, import_sam2_unet, load_trunk, read_state, trunk_state

PUBLISHED_KEYS = {"tiny": (154, 616), "small": (202, 680), "base_plus": (298, 808), "large": (586, 1192)}


def nano(**arguments: object) -> SAM2UNet:
    return SAM2UNet(**{"backbone": "nano", "decoder_channels": 8, **arguments}).eval()


def as_sam2(network: SAM2UNet, later: bool = False) -> dict:
    """Lay out a network's trunk as SAM 2 (or, with two more weights, SAM 2.1) publishes it."""
    names = {
        n: "image_encoder.trunk." + n.removeprefix("encoder.").replace(".block.", ".") for n in trunk_state(network)
    }
    state = {names[n]: weight for n, weight in trunk_state(network).items()}
    state |= {
        "image_encoder.neck.convs.0.conv.weight": torch.rand(2),
        "sam_mask_decoder.iou_token.weight": torch.rand(2),
    }
    if later:
        state |= {"no_obj_embed_spatial": torch.rand(1, 64), "obj_ptr_tpos_proj.weight": torch.rand(2)}
    return {"model": state}


def as_published(network: SAM2UNet) -> dict[str, Tensor]:
    """Lay out a network as the authors publish theirs: with the block that is never used."""
    state = dict(network.state_dict())
    return state | {n.replace("up3.", "up4."): torch.rand_like(w.float()) for n, w in state.items() if "up3." in n}


@pytest.mark.parametrize("backbone", ["tiny", "small", "base_plus", pytest.param("large", marks=pytest.mark.slow)])
def test_published_layouts_have_the_published_counts(backbone: str) -> None:
    network = SAM2UNet(backbone=backbone)
    published = as_published(network)
    assert (len(trunk_state(network)), len(published)) == PUBLISHED_KEYS[backbone]
    imported = import_sam2_unet(published)
    assert (imported.kind, imported.knobs["backbone"], len(imported.left_out)) == ("sam2_unet", backbone, 12)
    network.load_state_dict(imported.state, strict=True)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("tuning", ["adapter", "lora", "full", "frozen"])
def test_a_sam2_checkpoint_fills_the_whole_trunk_and_nothing_else(tmp_path: Path, later: bool, tuning: str) -> None:
    source, target = nano(), nano(tuning=tuning)
    torch.save(as_sam2(source, later), tmp_path / "sam2.pt")
    before = {name: weight.clone() for name, weight in target.state_dict().items()}
    assert load_trunk(target, tmp_path / "sam2.pt") is target
    trunk = trunk_state(source)
    for name, weight in target.state_dict().items():
        torch.testing.assert_close(weight, trunk.get(name, before[name]), rtol=0, atol=0)


def test_a_trunk_comes_from_any_of_the_layouts(tmp_path: Path) -> None:
    source = nano()
    bare = {n.removeprefix("encoder.").replace(".block.", "."): w for n, w in trunk_state(source).items()}
    layouts = {
        "bare": bare,
        "published": as_published(source),
        "own": source.state_dict(),
        "trunk": trunk_state(source),
    }
    layouts["parallel"] = {f"module.{name}": weight for name, weight in source.state_dict().items()}
    kinds = {}
    for name, state in layouts.items():
        torch.save(state, tmp_path / f"{name}.pt")
        kinds[name] = import_sam2_unet(read_state(tmp_path / f"{name}.pt")).kind
        loaded = load_trunk(nano(), tmp_path / f"{name}.pt")
        assert all(torch.equal(weight, trunk_state(source)[n]) for n, weight in trunk_state(loaded).items())
    wanted = {"bare": "sam2_trunk", "published": "sam2_unet", "own": "own", "trunk": "own_trunk", "parallel": "own"}
    assert kinds == wanted


def test_shapes_tell_the_networks_arguments() -> None:
    arguments = {"num_classes": 5, "decoder_attention": True, "tuning": "lora", "lora_rank": 3, "in_channels": 4}
    knobs = import_sam2_unet(nano(**arguments).state_dict()).knobs
    assert knobs == {**arguments, "backbone": "nano", "decoder_channels": 8}
    nano(**knobs).load_state_dict(nano(**arguments).state_dict())


def test_without_weights_a_warning_names_the_command(caplog: pytest.LogCaptureFixture) -> None:
    network = nano()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        assert load_trunk(network, None) is network
    assert "trunk is random" in caplog.text
    assert "python -m monai_ext convert" in caplog.text
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_another_backbone_is_refused_with_shapes(tmp_path: Path) -> None:
    torch.save(trunk_state(SAM2UNet(backbone="tiny")), tmp_path / "tiny.pt")
    with pytest.raises(InputError, match=r"backbone tiny\).*encoder\.pos_embed is 1x96x7x7, must be 1x16x7x7"):
        load_trunk(nano(), tmp_path / "tiny.pt")


def test_an_incomplete_trunk_is_refused(tmp_path: Path) -> None:
    state = trunk_state(nano())
    del state["encoder.blocks.2.block.norm1.weight"]
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(InputError, match=r"1 missing.*missing: encoder\.blocks\.2\.block\.norm1\.weight 32"):
        load_trunk(nano(), tmp_path / "cut.pt")


def test_an_unknown_size_of_trunk_is_refused() -> None:
    state = {n: w for n, w in trunk_state(nano()).items() if ".blocks.4." not in n}
    with pytest.raises(InputError, match="16 channels and 4 blocks is none of SAM 2's"):
        import_sam2_unet(state)


def test_another_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"begins with weight 3x2, bias 3; these are another network's"):
        import_sam2_unet(torch.nn.Linear(2, 3).state_dict(), "x.pt")


def test_compare_counts_each_kind() -> None:
    state = {"a": torch.rand(1), "b": torch.rand(2), "d": torch.rand(1)}
    wanted = {"a": torch.rand(1), "b": torch.rand(3), "c": torch.rand(1)}
    assert str(compare(state, wanted)) == "1 keys matched, 1 missing, 1 unexpected, 1 of another shape"
    with pytest.raises(InputError, match="b is 2, must be 3; missing: c 1; unexpected: d 1"):
        check(state, wanted, "x.pt")
    assert check(wanted, wanted, "x.pt").complete


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)


def write_wrong_files(folder: Path) -> None:
    (folder / "text.pt").write_text("hello, this is no checkpoint\n", encoding="utf-8")
    (folder / "page.pth").write_text("<!DOCTYPE html><html>Too many downloads</html>", encoding="utf-8")
    (folder / "empty.pt").touch()
    torch.save({"a": torch.rand(100)}, folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:500])
    torch.save({"a": Evil()}, folder / "evil.pt")
    (folder / "bare_evil.pt").write_bytes(pickle.dumps(Evil()))
    (folder / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    torch.save([torch.rand(1)], folder / "list.pt")
    torch.save({"epoch": 3, "weight": torch.rand(1)}, folder / "mixed.pt")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere.pt", "there is no such file"),
        ("text.pt", "is no readable PyTorch checkpoint"),
        ("page.pth", "is no readable PyTorch checkpoint"),
        ("empty.pt", "is empty"),
        ("cut.pt", "is no readable PyTorch checkpoint"),
        ("evil.pt", "asks for Python code to be run, which is refused"),
        ("bare_evil.pt", "is no readable PyTorch checkpoint"),
        ("bad.safetensors", "is no readable safetensors file"),
        ("list.pt", "holds a list, must be a state dict"),
        ("mixed.pt", "entry 'epoch' is a int, must be a tensor"),
    ],
)
def test_a_file_that_is_no_state_dict_is_refused(
    tmp_path: Path, name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_wrong_files(tmp_path)
    with pytest.raises(InputError, match=told) as error:
        read_state(tmp_path / name)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "pwned").exists()
