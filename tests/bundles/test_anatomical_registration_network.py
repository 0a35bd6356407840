# SPDX-License-Identifier: Apache-2.0
"""AnatomicalRegistrationNet: what learns and what never does, with and without embeddings, and its bound weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from anatomical_registration.network import AnatomicalRegistrationNet
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.losses import EmbeddedPairLoss, RegistrationLoss
from tests.bundles.test_anatomical_embedding_network import build as build_embedder
from tests.bundles.test_anatomical_embedding_network import published
from tests.contracts import NetworkContract

FEW = {"encoder_channels": (4, 6, 6, 6), "decoder_channels": (6, 6, 6, 6), "final_channels": (4,)}
EMBEDDER = {"base_channels": 2, "embedding_dim": 4}


def build(**knobs: Any) -> AnatomicalRegistrationNet:
    """A small network whose displacements are some voxels long and whose embedder has statistics of its own."""
    torch.manual_seed(0)
    network = AnatomicalRegistrationNet(**{**EMBEDDER, **FEW, **knobs})
    given = {name: knobs[name] for name in ("spatial_dims", "in_channels", "base_channels") if name in knobs}
    network.embedder.load_state_dict(build_embedder(**given).state_dict())
    nn.init.normal_(network.registration.flow.weight, std=0.5)
    return network


def pair(batch: int = 2, size: tuple[int, ...] = (8, 32, 32), channels: int = 2) -> Tensor:
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(2))


class TestContract(NetworkContract):
    key_count = 138 + 20
    some_keys = ("embedder.encoder.stem.conv.weight", "registration.encoder.1.weight", "registration.flow.bias")

    def build(self) -> nn.Module:
        return build()

    def image(self, batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
        return pair(batch, (8, height, width))

    def out_channels(self) -> int:
        return 3

    def backward(self, network: nn.Module) -> None:
        found = network(self.image())
        (found["displacement"].square().mean() + found["velocity"].square().mean()).backward()

    @pytest.mark.parametrize("size", [(8, 32, 32), (7, 41, 30)])
    def test_logits_have_the_size_of_the_input(self, size: tuple[int, ...]) -> None:  # type: ignore[override]
        """It has no logits: a displacement for each voxel."""
        with torch.no_grad():
            assert self.build().eval()(pair(2, size)).shape == (2, 3, *size)


class TestContractPlainTwoDimensions(TestContract):
    key_count = 138 + 20

    def build(self) -> nn.Module:
        return build(spatial_dims=2, in_channels=2, use_correlation=False, with_embeddings=False)

    def image(self, batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
        return pair(batch, (height, width), channels=4)

    def out_channels(self) -> int:
        return 2

    @pytest.mark.parametrize("size", [(32, 32), (41, 30)])
    def test_logits_have_the_size_of_the_input(self, size: tuple[int, ...]) -> None:  # type: ignore[override]
        with torch.no_grad():
            assert self.build().eval()(pair(2, size, channels=4)).shape == (2, 2, *size)


@pytest.mark.parametrize(("use_correlation", "count"), [(True, 350_659), (False, 327_331)])
def test_by_default_what_learns_is_the_published_network(use_correlation: bool, count: int) -> None:
    with torch.device("meta"):
        network = AnatomicalRegistrationNet(use_correlation=use_correlation)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count
    assert sum(p.numel() for p in network.embedder.parameters()) == 32_832_960


def test_the_embedder_stays_as_it_is_bit_for_bit_while_the_rest_learns() -> None:
    network = build().train()
    before = {name: value.clone() for name, value in network.embedder.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.1)
    loss = EmbeddedPairLoss(RegistrationLoss())
    first = network.registration.flow.weight.detach().clone()
    for _ in range(2):
        loss(network(pair()), {}).backward()
        optimizer.step()
    assert not network.embedder.training
    assert all(torch.equal(value, before[name]) for name, value in network.embedder.state_dict().items())
    assert not torch.equal(network.registration.flow.weight, first)


def test_the_sam_term_has_a_gradient_for_the_flow_and_none_for_the_embedder() -> None:
    network = build(use_correlation=False).train()
    network.embedder.requires_grad_(True)  # even then
    loss = EmbeddedPairLoss(RegistrationLoss(lambda_sim=0.0, lambda_reg=0.0, lambda_sam=1.0))
    loss(network(pair()), {}).backward()
    assert network.registration.flow.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert all(weight.grad is None for weight in network.embedder.parameters())


def test_the_embeddings_are_those_of_the_embedder_in_evaluation_mode() -> None:
    network, image = build().train(), pair()
    found, alone = network(image), build_embedder().eval()
    with torch.no_grad():
        for name, scan in (("moving", image[:, :1]), ("fixed", image[:, 1:])):
            expected = alone(scan)
            assert torch.equal(found[f"{name}_local"], expected["local"])
            assert torch.equal(found[f"{name}_global"], expected["global"])


def test_without_a_use_for_it_the_embedder_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(use_correlation=False, with_embeddings=False)
    monkeypatch.setattr(network.embedder, "forward", lambda image: pytest.fail("it was run"))
    assert set(network.train()(pair())) == {"displacement", "velocity", "moving", "fixed"}
    assert network.eval()(pair()).shape == (2, 3, 8, 32, 32)


def test_focus_is_what_registration_sees_and_the_embedder_does_not() -> None:
    image, low, high = pair(), 0.25, 0.75
    focused, plain = build(focus=(low, high)).train()(image), build().train()(image)
    torch.testing.assert_close(focused["fixed"], ((image[:, 1:] - low) / (high - low)).clamp(0, 1))
    assert torch.equal(focused["fixed_local"], plain["fixed_local"])
    assert not torch.equal(focused["displacement"], plain["displacement"])


def with_readout(**knobs: Any) -> AnatomicalRegistrationNet:
    network = build(readout_sigma=1.0, center_correlation=True, **knobs)
    nn.init.normal_(network.registration.readout.sum.weight)  # type: ignore[union-attr]
    return network


def test_a_readout_adds_what_it_makes_of_the_correlation_to_the_velocity() -> None:
    network, without, image = with_readout().train(), build(center_correlation=True).train(), pair(2, (7, 41, 30))
    without.load_state_dict(network.state_dict(), strict=False)
    found = network(image)
    assert network.readout is not None
    added = network.readout(network.correlate(image))[:, :, :7, :41, :30]
    torch.testing.assert_close(found["velocity"], without(image)["velocity"] + added)
    found["velocity"].square().mean().backward()
    assert network.readout.sum.weight.grad is not None
    assert build().readout is None
    assert build(readout_sigma=1.0, use_correlation=False).readout is None


@pytest.mark.parametrize("build", [build, with_readout])
def test_one_trace_fits_any_size_and_batch(build: Callable[[], AnatomicalRegistrationNet]) -> None:
    network = build().eval()
    script = torch.jit.trace(network, pair(2, (7, 41, 60)), check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(script(pair(3, (9, 34, 33))), network(pair(3, (9, 34, 33))), atol=1e-5, rtol=0)


@pytest.mark.slow  # tracing its sizes symbolically takes half a minute
def test_one_exported_program_fits_any_size_and_batch() -> None:
    network = with_readout(integration_steps=1).eval()
    example, image = pair(2, (7, 41, 60)), pair(3, (9, 34, 33))
    free = dict.fromkeys((0, 2, 3, 4), torch.export.Dim.DYNAMIC)
    program = torch.export.export(network, (example,), dynamic_shapes=(free,)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(image), network(image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("focus", [(0.5,), (0.5, 0.5), (1.0, 0.0)])
def test_a_focus_that_is_none_is_refused(focus: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="two rising numbers"):
        build(focus=focus)


def test_a_u_net_that_goes_less_far_than_the_embedder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 4 numbers, got \[4, 6, 6\]"):
        build(encoder_channels=(4, 6, 6), decoder_channels=(6, 6, 6))


def test_what_was_learned_comes_back_exactly_on_the_same_embedder(tmp_path: Path) -> None:
    network, other = build(), build()
    nn.init.normal_(other.registration.flow.weight)
    network.save_registration(tmp_path / "registration.safetensors")
    other.load_registration(tmp_path / "registration.safetensors")
    assert all(torch.equal(w, other.state_dict()[n]) for n, w in network.state_dict().items())
    learned = sum(4 * w.numel() for w in network.registration.state_dict().values())
    assert learned < (tmp_path / "registration.safetensors").stat().st_size < learned + 5_000


def other_weights(network: AnatomicalRegistrationNet) -> None:
    nn.init.normal_(network.embedder.encoder.stem.conv.weight)


def other_range(network: AnatomicalRegistrationNet) -> None:
    network.embedder.pixel_shift = 0.0


@pytest.mark.parametrize("change", [other_weights, other_range])
def test_another_embedder_is_refused_and_nothing_is_changed(change: Any, tmp_path: Path) -> None:
    build().save_registration(tmp_path / "registration.safetensors")
    other = build()
    nn.init.normal_(other.registration.flow.weight)
    change(other)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(InputError, match=r"trained on another embedder.*set embedder_path"):
        other.load_registration(tmp_path / "registration.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_weights_of_other_widths_are_refused(tmp_path: Path) -> None:
    build().save_registration(tmp_path / "registration.safetensors")
    with pytest.raises(InputError, match=r"final.0.weight is 4x10"):
        build(final_channels=(5,)).load_registration(tmp_path / "registration.safetensors")


def test_training_starts_from_an_embedder_and_says_so_if_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="embedder_path is not set"):
        build().load_pretrained()
    build(untrained_embedder=True).load_pretrained()
    build(use_correlation=False, with_embeddings=False).load_pretrained()
    source = build_embedder().eval()
    nn.init.normal_(source.encoder.stem.conv.weight)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    torch.save({"state_dict": published(source)}, tmp_path / "SAM.pth")
    for name in ("model.pt", "SAM.pth"):
        network = build(embedder_path=tmp_path / name).load_pretrained()
        assert torch.equal(network.embedder.encoder.stem.conv.weight, source.encoder.stem.conv.weight)


def test_training_goes_on_from_a_whole_network_or_from_what_was_learned(tmp_path: Path) -> None:
    source = build()
    torch.save(source.state_dict(), tmp_path / "model.pt")
    torch.save(source.embedder.state_dict(), tmp_path / "embedder.pt")
    source.save_registration(tmp_path / "registration.safetensors")
    for name in ("model.pt", "registration.safetensors"):
        network = build(embedder_path=tmp_path / "embedder.pt")
        nn.init.zeros_(network.registration.flow.weight)
        network.load_pretrained(tmp_path / name)
        assert all(torch.equal(w, source.state_dict()[n]) for n, w in network.state_dict().items())
