# SPDX-License-Identifier: Apache-2.0
"""SimCLRv2's weights in both published forms: what is loaded computes what the published network does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.simclr import SIMCLR_LICENCE, import_simclr, load_simclr
from monai_ext.networks.checkpoints.teacher_file import licence_of, save_teacher
from monai_ext.networks.nets.resnet_sk import RESNET_SK_PRESETS, ResNetSKPreset, build_resnet_sk
from monai_ext.networks.nets.simclr import SimCLR
from tests.networks.published_simclr import Published, pooled

BASE, LAYERS = 16, (2, 1, 2, 1)


@pytest.fixture(autouse=True)
def _two_blocks_in_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESNET_SK_PRESETS, "small", ResNetSKPreset(BASE, LAYERS))


def published(naming: str, pixels: Tensor | None = None) -> tuple[Published, Tensor]:
    torch.manual_seed(0)
    weights = Published(naming)
    return weights, pooled(weights, torch.rand(2, 3, 32, 48) if pixels is None else pixels, BASE, LAYERS)


def head(prefix: str) -> dict[str, Tensor]:
    """The projection head under the names of converted files."""
    sizes = {0: (512, 512), 3: (512, 512), 6: (128, 512)}
    state = {f"{prefix}layers.{place}.weight": torch.randn(size) for place, size in sizes.items()}
    for place, width in ((1, 512), (4, 512), (7, 128)):
        state |= {
            f"{prefix}layers.{place}.{name}": torch.rand(width) for name in ("weight", "running_mean", "running_var")
        }
        state[f"{prefix}layers.{place}.bias"] = torch.zeros(width)
        state[f"{prefix}layers.{place}.num_batches_tracked"] = torch.tensor(7)
    return state


def test_a_converted_file_computes_what_it_was_converted_from(tmp_path: Path) -> None:
    pixels = torch.rand(2, 3, 32, 48)
    weights, expected = published("converted", pixels)
    resnet = {name.removeprefix("resnet."): weight for name, weight in weights.state.items()}
    resnet |= {"fc.weight": torch.randn(1000, 512), "fc.bias": torch.randn(1000)}
    torch.save({"resnet": resnet, "head": head("")}, tmp_path / "r50.pth")
    alone = load_simclr(build_resnet_sk("small", in_channels=3).eval(), tmp_path / "r50.pth")
    torch.testing.assert_close(alone(pixels), expected, atol=1e-4, rtol=1e-4)
    with_head = load_simclr(SimCLR(build_resnet_sk("small", in_channels=3)).eval(), tmp_path / "r50.pth")
    torch.testing.assert_close(with_head.encoder(pixels), expected, atol=1e-4, rtol=1e-4)
    classifying = load_simclr(build_resnet_sk("small", num_classes=1000), tmp_path / "r50.pth")
    assert torch.equal(classifying.fc.bias, resnet["fc.bias"])  # type: ignore[union-attr]


def test_tensorflow_variables_compute_what_the_checkpoint_does(tmp_path: Path) -> None:
    pixels = torch.rand(2, 3, 32, 48)
    weights, expected = published("tensorflow", pixels)
    linear, gamma = torch.randn(512, 128), torch.rand(128)
    state = {
        **weights.state,
        "base_model/conv2d/kernel/Momentum": torch.zeros(1),
        "global_step": torch.tensor(250228),
        "head_contrastive/nl_2/dense/kernel": linear,
        "head_contrastive/nl_2/batch_normalization/gamma": gamma,
        "head_contrastive/nl_2/batch_normalization/moving_mean": torch.zeros(128),
        "head_supervised/linear_layer/dense/bias": torch.zeros(1000),
    }
    save_file(state, tmp_path / "r50.safetensors")
    network = load_simclr(build_resnet_sk("small", in_channels=3).eval(), tmp_path / "r50.safetensors")
    torch.testing.assert_close(network(pixels), expected, atol=1e-4, rtol=1e-4)
    imported = import_simclr(state)
    assert (imported.kind, imported.knobs) == ("simclr_tensorflow", {"teacher": "small"})
    assert set(imported.left_out) == {"base_model/conv2d/kernel/Momentum", "global_step"}
    assert torch.equal(imported.state["head.layers.6.weight"], linear.T)
    assert torch.equal(imported.state["head.layers.7.weight"], gamma)
    assert not imported.state["head.layers.7.bias"].any()


def test_a_variable_that_is_missing_is_told() -> None:
    state = published("tensorflow")[0].state
    gap = {name: weight for name, weight in state.items() if not name.startswith("base_model/conv2d_5/")}
    with pytest.raises(InputError, match=r"conv2d must be numbered without a gap, got \[0, 1, 2, 3, 4, 6,"):
        import_simclr(gap)
    last = {name: weight for name, weight in state.items() if "conv2d_36/" not in name}
    assert len(last) == len(state) - 1
    with pytest.raises(InputError, match="36 convolutions and 31 normalisations of width 16 are none of"):
        import_simclr(last)


def test_what_does_not_fit_is_refused_and_named(tmp_path: Path) -> None:
    state = published("converted")[0].state
    short = {name.removeprefix("resnet."): weight for name, weight in state.items() if ".3.blocks.1.net.3." not in name}
    torch.save({"resnet": short}, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"short\.pth \(teacher small\).*missing: encoder\.layer3\.1\.expand\.conv"):
        load_simclr(build_resnet_sk("small"), tmp_path / "short.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: a stem of 0 channels.*no name that we know"):
        load_simclr(build_resnet_sk("small"), tmp_path / "other.pth")
    with pytest.raises(InputError, match="there is no such file"):
        load_simclr(build_resnet_sk("small"), tmp_path / "none.pth")


def test_a_head_that_is_not_given_stays_random_and_this_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(build_resnet_sk("small").state_dict(), tmp_path / "alone.pt")
    network = SimCLR(build_resnet_sk("small"))
    before = network.head.layers[0].weight.clone()
    load_simclr(network, tmp_path / "alone.pt")
    assert "alone.pt has no projection head: it stays random" in caplog.text
    assert torch.equal(network.head.layers[0].weight, before)


def test_what_was_trained_here_comes_back_with_its_licence(tmp_path: Path) -> None:
    trained = SimCLR(build_resnet_sk("small"))
    trained.encoder.licence = SIMCLR_LICENCE
    save_teacher(trained, tmp_path / "teacher.safetensors")
    found = load_simclr(SimCLR(build_resnet_sk("small")), tmp_path / "teacher.safetensors")
    assert all(torch.equal(weight, trained.state_dict()[name]) for name, weight in found.state_dict().items())
    assert licence_of(found) == SIMCLR_LICENCE
    with pytest.raises(InputError, match=r"must end in \.safetensors, which keeps the licence"):
        save_teacher(trained, tmp_path / "teacher.pt")


def test_without_weights_it_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_simclr(build_resnet_sk("small"), None)
    assert "pretrain_image_teacher.json" in caplog.text
