# SPDX-License-Identifier: Apache-2.0
"""MAE's three kinds of file are told apart, and their licence stays with what learns from them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.mae import MAE_LICENCE, import_mae, load_mae
from monai_ext.networks.checkpoints.teacher_file import licence_of, save_teacher
from monai_ext.networks.nets.mae import build_mae
from monai_ext.networks.nets.mae_encoder import MAE_PRESETS, MAEPreset, build_mae_encoder

SIDE = 64


def whole(seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn_like(weight) for name, weight in build_mae("small", SIDE).state_dict().items()}


def encoder_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in state.items() if not name.startswith(("decoder", "mask_token"))}


@pytest.mark.parametrize(
    ("file", "kind", "normalised"),
    [
        ("mae_visualize_vit_large.pth", "mae_raw", False),
        ("mae_visualize_vit_large_ganloss.pth", "mae_raw", False),
        ("mae_pretrain_vit_large_full.pth", "mae_normalised", True),
        ("downloads/mae_visualize_vit_large.d/mine.pth", "mae", False),
    ],
)
def test_decoders_are_told_apart_by_the_names_of_their_files(file: str, kind: str, normalised: bool) -> None:
    imported = import_mae(whole(), f"/data/{file}")
    assert (imported.kind, imported.knobs["norm_pix_loss"]) == (kind, normalised)
    assert bool(imported.ambiguous) == (kind == "mae")


def test_an_encoder_alone_says_nothing_of_the_loss() -> None:
    imported = import_mae(encoder_of(whole()), "mae_pretrain_vit_large.pth")
    assert (imported.kind, imported.knobs) == ("mae_encoder", {"teacher": "small", "image_size": SIDE})


@pytest.mark.parametrize(("file", "told"), [
    ("mae_visualize_vit_large.pth", "pixels as they are"),
    ("mae_pretrain_vit_large_full.pth", "normalised patches"),
])  # fmt: skip
def test_a_payload_loads_into_both_networks_and_is_told(
    file: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = whole()
    torch.save({"model": state}, tmp_path / file)
    with caplog.at_level(logging.INFO):
        network = load_mae(build_mae("small", SIDE), tmp_path / file)
        encoder = load_mae(build_mae_encoder("small", SIDE), tmp_path / file)
    assert all(torch.equal(weight, state[name]) for name, weight in network.state_dict().items())
    assert all(torch.equal(weight, state[name]) for name, weight in encoder.state_dict().items())
    assert caplog.text.count(told) == 2


def test_an_encoder_alone_leaves_a_decoder_random_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"model": encoder_of(whole())}, tmp_path / "mae_pretrain_vit_large.pth")
    network = build_mae("small", SIDE)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    load_mae(network, tmp_path / "mae_pretrain_vit_large.pth")
    changed = {name for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == set(encoder_of(whole()))
    assert "the decoder stays random" in caplog.text
    assert "mae_visualize_vit_large.pth" in caplog.text


def test_published_sizes_are_not_for_commerce_and_so_is_what_is_trained_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAE_PRESETS, "vit_large", MAEPreset(64, 1, 2, 32, 1, 2))
    torch.save({"model": build_mae("vit_large", SIDE).state_dict()}, tmp_path / "mae_visualize_vit_large.pth")
    network = load_mae(build_mae("vit_large", SIDE), tmp_path / "mae_visualize_vit_large.pth")
    assert network.licence == MAE_LICENCE
    assert "CC BY-NC" in MAE_LICENCE
    save_teacher(network, tmp_path / "continued.safetensors")
    assert licence_of(load_mae(build_mae_encoder("vit_large", SIDE), tmp_path / "continued.safetensors")) == MAE_LICENCE


def test_weights_of_ones_own_keep_the_licence_they_were_given(tmp_path: Path) -> None:
    save_teacher(build_mae("small", SIDE), tmp_path / "own.safetensors", licence="CC BY 4.0")
    assert load_mae(build_mae("small", SIDE), tmp_path / "own.safetensors").licence == "CC BY 4.0"
    save_teacher(build_mae("small", SIDE), tmp_path / "none.safetensors")
    assert load_mae(build_mae("small", SIDE), tmp_path / "none.safetensors").licence == ""


def test_what_does_not_fit_is_refused_and_named(tmp_path: Path) -> None:
    torch.save({"model": whole()}, tmp_path / "mae.pth")
    with pytest.raises(InputError, match=r"mae\.pth \(teacher small\).*pos_embed is 1x17x192, must be 1x37x192"):
        load_mae(build_mae("small", 96), tmp_path / "mae.pth")
    with torch.device("meta"):
        large = build_mae_encoder("vit_large", SIDE)
    with pytest.raises(InputError, match=r"does not fit.*set teacher to the network"):
        load_mae(large, tmp_path / "mae.pth")
    short = {name: weight for name, weight in whole().items() if name != "decoder_blocks.1.mlp.fc2.bias"}
    torch.save(short, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"missing: decoder_blocks\.1\.mlp\.fc2\.bias"):
        load_mae(build_mae("small", SIDE), tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"is no masked autoencoder, it has no cls_token; it begins with weight 1"):
        import_mae({"weight": torch.zeros(1)})
    deep = {**whole(), "blocks.4.norm1.weight": torch.zeros(192)}
    with pytest.raises(InputError, match="192 channels and 5 blocks is none of ours"):
        import_mae(deep)


def test_without_weights_it_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    load_mae(build_mae("small", SIDE), None)
    assert "mae_pretrain_vit_large.pth" in caplog.text
