# SPDX-License-Identifier: Apache-2.0
"""AnatomicalEmbeddingNet: the published network, right for images of any size, and where its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from anatomical_embedding.network import AnatomicalEmbeddingNet
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d
from tests.contracts import NetworkContract

SIZES = [((8, 32, 32), (4, 16, 16), (2, 2, 2)), ((5, 17, 33), (4, 16, 24), (2, 2, 3))]


def build(**knobs: Any) -> AnatomicalEmbeddingNet:
    torch.manual_seed(0)
    network = AnatomicalEmbeddingNet(**{"base_channels": 2, "embedding_dim": 4, **knobs})
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):  # statistics of their own, as training leaves them
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return network


def volumes(batch: int = 2, size: tuple[int, ...] = (8, 32, 32), channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(2))


class TestContract(NetworkContract):
    key_count = 138
    some_keys = ("encoder.stem.conv.weight", "local_head.laterals.2.bias", "global_head.output.weight")

    def build(self) -> nn.Module:
        return build()

    def image(self, batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
        return volumes(batch, (8, height, width))

    def out_channels(self) -> int:
        return 4

    def backward(self, network: nn.Module) -> None:
        # the length of the outputs is fixed, so another direction has to be asked for
        sum((x * torch.randn_like(x)).sum() for x in network(self.image()).values()).backward()

    @pytest.mark.parametrize(("size", "local", "coarse"), SIZES)
    def test_logits_have_the_size_of_the_input(  # type: ignore[override]
        self, size: tuple[int, ...], local: tuple[int, ...], coarse: tuple[int, ...]
    ) -> None:
        """It has no logits: its cells cover the image, whole, and no more than that."""
        with torch.no_grad():
            found = self.build().eval()(volumes(2, size))
        assert {name: tuple(x.shape) for name, x in found.items()} == {
            "local": (2, 4, *local), "global": (2, 4, *coarse),
        }  # fmt: skip
        assert (found.shape, found.dtype) == (found["local"].shape, torch.float32)


class TestContractSemanticTwoDimensions(TestContract):
    key_count = 146
    some_keys = ("semantic_head.output.weight",)

    def build(self) -> nn.Module:
        return build(spatial_dims=2, in_channels=2, semantic_head=True)

    def image(self, batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
        return volumes(batch, (height, width), channels=2)

    def test_logits_have_the_size_of_the_input(self) -> None:  # type: ignore[override]
        with torch.no_grad():
            found = self.build().eval()(volumes(2, (20, 40), channels=2))
        assert {name: tuple(x.shape[2:]) for name, x in found.items()} == {
            "local": (16, 24), "global": (2, 3), "semantic": (16, 24),
        }  # fmt: skip


@pytest.mark.parametrize(("semantic", "parameters", "keys"), [(False, 32_832_960, 138), (True, 33_333_184, 146)])
def test_by_default_it_is_the_published_network(semantic: bool, parameters: int, keys: int) -> None:
    with torch.device("meta"):
        network = AnatomicalEmbeddingNet(semantic_head=semantic)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == keys


def test_air_and_dense_bone_come_to_the_published_range() -> None:
    network, plain = build(pixel_scale=255.0, pixel_shift=-50.0).eval(), ResNetFPN3d(base_channels=2, embedding_dim=4)
    plain.load_state_dict(network.state_dict())
    image = volumes(1)
    with torch.no_grad():
        torch.testing.assert_close(dict(network(image)), plain.eval()(image * 255 - 50), atol=1e-6, rtol=0)


def test_padding_inside_is_padding_outside_with_air() -> None:
    network, image = build(padding_value=0.25).eval(), volumes(1, (6, 30, 40))
    padded = torch.full((1, 1, 8, 32, 48), 0.25)
    padded[:, :, :6, :30, :40] = image
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(padded), atol=0, rtol=0)


def test_one_trace_and_one_exported_program_fit_any_size_and_batch() -> None:
    network = build().eval()
    example, image = volumes(2, (7, 41, 70)), volumes(3, (9, 50, 33))
    script = torch.jit.trace(network, example, check_trace=False)
    free = dict.fromkeys((0, 2, 3, 4), torch.export.Dim.DYNAMIC)
    program = torch.export.export(network, (example,), dynamic_shapes=(free,)).module()
    with torch.no_grad():
        expected = tuple(network(image).values())
        torch.testing.assert_close(script(image), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(tuple(program(image)), expected, atol=1e-5, rtol=0)


def test_a_compiled_network_returns_the_same_by_name() -> None:
    network, image = build().eval(), volumes(1)
    compiled = torch.compile(network, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(dict(compiled(image)), dict(network(image)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shape", "named"), [((1, 8, 32, 32), r"\(1, 8, 32, 32\)"), ((1, 2, 8, 32, 32), r"\(B, 1, D, H, W\)")]
)
def test_a_wrong_shape_is_told_which_one_is_right(shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()(torch.rand(shape))


def test_what_embeddings_depend_on_is_told_besides_the_weights() -> None:
    settings = [build(**knobs).encoder_settings for knobs in ({}, {"pixel_shift": 0.0}, {"padding_value": 0.5})]
    assert settings[0] == build().encoder_settings
    assert all(one != other for one, other in zip(settings, settings[1:] + settings[:1], strict=True))


def published(network: nn.Module) -> dict[str, Tensor]:
    """The state dict under the authors' names, written the other way round than the importer does."""
    renamed = {}
    for name, weight in network.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "encoder":
            parts = rest.replace("stem", "conv1").split(".")
            new = ".".join(["backbone", *["bn" if p == "norm" else p for p in parts]])

        else:
            head = {"local_head": "neck", "global_head": "read_out_head", "semantic_head": "semantic_head"}[part]
            pieces = rest.split(".")
            index = ("lateral_convs", pieces[1]) if pieces[0] == "laterals" else ("fpn_convs", "0")
            new = ".".join([head, *index, "conv", pieces[-1]])
        renamed[f"module.{new}"] = weight
    return renamed


def test_a_published_file_loads_whole(tmp_path: Path) -> None:
    source = build(semantic_head=True).eval()
    torch.save({"meta": {"iter": 20000}, "state_dict": published(source)}, tmp_path / "SAM.pth")
    network = build(semantic_head=True).eval()
    nn.init.normal_(network.encoder.stem.conv.weight)
    network.load_pretrained(tmp_path / "SAM.pth")
    assert all(torch.equal(w, source.state_dict()[n]) for n, w in network.state_dict().items())


def test_a_published_file_of_another_width_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": published(build())}, tmp_path / "SAM.pth")
    with pytest.raises(InputError, match="base_channels 2"):
        build(base_channels=4).load_pretrained(tmp_path / "SAM.pth")


def test_without_a_whole_network_the_encoder_starts_from_a_flat_one(tmp_path: Path) -> None:
    resnet = pytest.importorskip("torchvision", reason="pip install torchvision").models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    network = AnatomicalEmbeddingNet(pretrained_2d=tmp_path / "resnet18.pth")
    network.load_pretrained(None)
    weight = resnet.state_dict()["layer3.0.conv1.weight"]
    torch.testing.assert_close(network.encoder.layer3[0].conv1.conv.weight.sum(dim=2), weight)


def test_a_whole_network_counts_more_than_a_flat_one(tmp_path: Path) -> None:
    source = build()
    torch.save(source.state_dict(), tmp_path / "model.pt")
    network = build(pretrained_2d="nowhere.pth").load_pretrained(tmp_path / "model.pt")
    assert torch.equal(network.encoder.stem.conv.weight, source.encoder.stem.conv.weight)
