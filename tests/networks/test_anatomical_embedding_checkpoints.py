# SPDX-License-Identifier: Apache-2.0
"""Anatomical embedding's weights: the published layout imported strictly, and 2-D ResNets inflated."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from torch import Tensor
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.anatomical_embedding import (
    import_anatomical_embedding,
    inflate_resnet,
    load_anatomical_embedding,
    load_inflated_resnet,
)
from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d

# our names to the published ones: written the other way round than the package's table, as an independent check
BACKWARD = (
    (r"^encoder\.stem\.", "backbone.conv1."),
    (r"^encoder\.", "backbone."),
    (r"\.norm\.", ".bn."),
    (r"^local_head", "neck"),
    (r"^global_head", "read_out_head"),
    (r"\.laterals\.(\d)\.", r".lateral_convs.\1.conv."),
    (r"\.output\.", ".fpn_convs.0.conv."),
)


def small(**arguments: object) -> ResNetFPN3d:
    network = ResNetFPN3d(**{"base_channels": 2, "embedding_dim": 4, **arguments})  # type: ignore[arg-type]
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            value.copy_(torch.rand(value.shape) + 0.5)
    return network


def published(network: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, weight in network.state_dict().items():
        for pattern, text in BACKWARD:
            name = re.sub(pattern, text, name)
        state[name] = weight
    return state


def assert_same(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert set(state) == set(other)
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


@pytest.mark.parametrize("semantic_head", [False, True])
def test_the_published_layout_is_imported_whole(semantic_head: bool) -> None:
    with torch.device("meta"):
        network = ResNetFPN3d(semantic_head=semantic_head)
    state = published(network)
    sample = {
        "backbone.conv1.conv.weight": (64, 1, 3, 7, 7),
        "backbone.conv1.bn.running_mean": (64,),
        "backbone.layer1.0.downsample.conv.weight": (64, 64, 1, 1, 1),
        "backbone.layer4.1.conv2.bn.num_batches_tracked": (),
        "neck.lateral_convs.2.conv.bias": (128,),
        "neck.fpn_convs.0.conv.weight": (128, 128, 3, 3, 3),
        "read_out_head.lateral_convs.0.conv.weight": (128, 512, 1, 1, 1),
        "read_out_head.fpn_convs.0.conv.bias": (128,),
    }
    assert {name: tuple(state[name].shape) for name in sample} == sample
    imported = import_anatomical_embedding(state)
    assert (imported.kind, imported.left_out, len(imported.state)) == ("published", (), 146 if semantic_head else 138)
    assert imported.knobs == {
        "spatial_dims": 3,
        "in_channels": 1,
        "base_channels": 64,
        "embedding_dim": 128,
        "lateral_kernel": 1,
        "semantic_head": semantic_head,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"spatial_dims": 2, "in_channels": 3},
        {"semantic_head": True, "lateral_kernel": 3},
        {"lateral_kernel": None, "stage_channels": [4, 4, 4, 6]},
        {"norm": "instance"},
    ],
)
def test_our_own_weights_tell_the_networks_arguments(arguments: dict[str, object]) -> None:
    network = small(**arguments)
    imported = import_anatomical_embedding(network.state_dict())
    assert imported.kind == "own"
    rebuilt = ResNetFPN3d(**imported.knobs)  # type: ignore[arg-type]
    rebuilt.load_state_dict(imported.state)
    image = torch.rand(1, network.in_channels, *(4, 32, 32)[-network.spatial_dims :])
    assert torch.equal(rebuilt.eval()(image)["local"], network.eval()(image)["local"])


def test_a_wrapped_file_is_loaded_strictly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = small(), small(in_channels=1)
    wrapped = {f"module.{name}": weight for name, weight in published(source).items()}
    torch.save({"meta": {"iter": 3}, "state_dict": wrapped, "optimizer": {}}, tmp_path / "SAM.pth")
    with caplog.at_level(logging.INFO):
        assert load_anatomical_embedding(target, tmp_path / "SAM.pth") is target
    assert_same(target.state_dict(), source.state_dict())
    assert "published, 138 keys" in caplog.text


def test_another_width_is_refused_with_the_arguments_that_would_fit(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "small.pt")
    with pytest.raises(InputError, match=r"small\.pt \(.*base_channels 2, embedding_dim 4.*\): does not fit"):
        load_anatomical_embedding(ResNetFPN3d(base_channels=3, embedding_dim=4), tmp_path / "small.pt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("neck.fpn_convs.0.conv.bias"), r"missing: local_head\.output\.bias 4"),
        (lambda s: s.update({"sum_head.weight": torch.rand(1)}), r"unexpected: sum_head\.weight 1"),
        (
            lambda s: s.update({"read_out_head.fpn_convs.0.conv.bias": torch.rand(5)}),
            r"global_head\.output\.bias is 5, must be 4",
        ),
        (lambda s: s.pop("backbone.layer3.0.conv1.conv.weight"), r"without encoder\.layer3\.0\.conv1\.conv\.weight"),
        (
            lambda s: s.update({"neck.lateral_convs.0.conv.weight": torch.rand(4, 2, 5, 5, 5)}),
            r"is 4x2x5x5x5, its sides must be 1 or 3",
        ),
        (lambda s: s.pop("backbone.conv1.conv.weight"), "another network's weights"),
    ],
)
def test_whatever_does_not_fit_is_named(change: object, told: str) -> None:
    state = published(small())
    change(state)  # type: ignore[operator]
    with pytest.raises(InputError, match=told):
        import_anatomical_embedding(state, "x.pth")


def test_no_file_leaves_the_network_and_only_the_encoder_warns(caplog: pytest.LogCaptureFixture) -> None:
    network = small()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    assert load_anatomical_embedding(network, None) is network
    assert caplog.text == ""
    assert load_inflated_resnet(network, "") is network
    assert "The encoder is random" in caplog.text
    assert_same(network.state_dict(), before)


class Narrow(ResNet):
    """torchvision's ResNet-18 with few channels."""

    def __init__(self, width: int = 2) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        for name, module in list(self.named_modules()):
            parent, _, child = name.rpartition(".")
            if isinstance(module, nn.Conv2d):
                inputs = 3 if name == "conv1" else module.in_channels * width // 64
                kernel, stride, padding = module.kernel_size, module.stride, module.padding
                made = nn.Conv2d(inputs, module.out_channels * width // 64, kernel, stride, padding, bias=False)
                setattr(self.get_submodule(parent), child, made)
            elif isinstance(module, nn.BatchNorm2d):
                made_norm = nn.BatchNorm2d(module.num_features * width // 64)
                with torch.no_grad():
                    for value in (*made_norm.parameters(), *made_norm.buffers()):
                        value.copy_(torch.rand(value.shape) + 0.5)
                setattr(self.get_submodule(parent), child, made_norm)


def test_a_volume_that_is_the_same_in_all_slices_gives_what_one_slice_gives() -> None:
    """Away from the ends in z, where zeros are padded; the 2-D network has the colours added up, so has the stem."""
    state, flat, deep = Narrow().state_dict(), small(spatial_dims=2), small(spatial_dims=3)
    for network in (flat, deep):
        wanted = {n: w for n, w in network.state_dict().items() if n.startswith("encoder.")}
        network.load_state_dict(inflate_resnet(state, wanted), strict=False)
    shortcut = {n: w for n, w in flat.state_dict().items() if n.startswith("encoder.layer1.0.downsample.")}
    deep.load_state_dict({n: w[..., None, :, :] if w.ndim == 4 else w for n, w in shortcut.items()}, strict=False)
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        of_slice, of_volume = flat.eval().encoder(image), deep.eval().encoder(image[:, :, None].repeat(1, 1, 48, 1, 1))
        for slice_level, level in zip(of_slice, of_volume, strict=True):
            middle = level[:, :, level.shape[2] // 2]
            torch.testing.assert_close(middle, slice_level, atol=1e-4, rtol=1e-4)


def test_the_stem_turns_colours_into_slices_and_kernels_keep_their_sum() -> None:
    state, network = Narrow().state_dict(), small(in_channels=2)
    inflated = inflate_resnet(state, {n: w for n, w in network.state_dict().items() if n.startswith("encoder.")})
    stem = inflated["encoder.stem.conv.weight"]
    torch.testing.assert_close(stem[:, 0], state["conv1.weight"] / 2)
    assert torch.equal(stem[:, 0], stem[:, 1])
    kernel = inflated["encoder.layer3.1.conv2.conv.weight"]
    torch.testing.assert_close(kernel.sum(dim=2), state["layer3.1.conv2.weight"])
    assert torch.equal(kernel[:, :, 0], kernel[:, :, 2])
    assert torch.equal(
        inflated["encoder.layer2.0.downsample.norm.running_var"], state["layer2.0.downsample.1.running_var"]
    )
    assert torch.equal(inflated["encoder.layer1.1.conv1.conv.weight"][:, :, 0], state["layer1.1.conv1.weight"])


def test_three_channels_in_2d_take_the_colours_as_they_are() -> None:
    state, network = Narrow().state_dict(), small(in_channels=3, spatial_dims=2)
    inflated = inflate_resnet(state, {n: w for n, w in network.state_dict().items() if n.startswith("encoder.")})
    assert torch.equal(inflated["encoder.stem.conv.weight"], state["conv1.weight"])


def test_a_file_of_2d_weights_starts_the_encoder_alone(tmp_path: Path) -> None:
    torch.save(Narrow().state_dict(), tmp_path / "resnet18.pth")
    network = small()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    load_inflated_resnet(network, tmp_path / "resnet18.pth")
    after = {name: weight for name, weight in network.state_dict().items() if "num_batches" not in name}
    kept = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert kept == {n for n in after if not n.startswith("encoder.") or n.startswith("encoder.layer1.0.downsample.")}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("conv1.weight"), "give torchvision's resnet18 weights"),
        (
            lambda s: s.update({"layer1.0.conv3.weight": torch.rand(2, 2, 1, 1)}),
            r"unexpected: encoder\.layer1\.0\.conv3",
        ),
        (lambda s: s.update({"mask_token": torch.rand(2)}), r"mask_token is no part of a ResNet-18"),
        (lambda s: s.pop("layer4.1.bn2.bias"), r"missing: encoder\.layer4\.1\.conv2\.norm\.bias"),
    ],
)
def test_another_2d_network_is_refused(change: object, told: str) -> None:
    state = Narrow().state_dict()
    change(state)  # type: ignore[operator]
    wanted = {n: w for n, w in small().state_dict().items() if n.startswith("encoder.")}
    with pytest.raises(InputError, match=told):
        inflate_resnet(state, wanted, "resnet50.pth")
    with pytest.raises(InputError, match="base_channels 64"):
        inflate_resnet(Narrow(4).state_dict(), wanted)
