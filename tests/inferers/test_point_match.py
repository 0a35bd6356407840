# SPDX-License-Identifier: Apache-2.0
"""PointMatchInferer: two scans, points, and what is said where one of them is missing."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.data import MetaTensor

from monai_ext.errors import InputError
from monai_ext.inferers import PointMatchInferer, VolumeEmbedder
from monai_ext.matching import PointMatcher
from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d

POINTS = torch.tensor([[4.5, 8.5, 10.5], [2.5, 30.5, 20.5]])


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return ResNetFPN3d(base_channels=4, embedding_dim=8).eval()


def scan(shift: float = 0.0) -> MetaTensor:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 3] = shift
    generator = torch.Generator().manual_seed(0)
    return MetaTensor(torch.rand(1, 8, 48, 32, generator=generator), affine=affine)


def inferer(**settings: object) -> PointMatchInferer:
    return PointMatchInferer(PointMatcher(refine=False, query="cell"), VolumeEmbedder(**settings))  # type: ignore[arg-type]


def test_a_scan_that_was_put_elsewhere_has_its_points_there(network: nn.Module) -> None:
    found = inferer()(scan(100.0), network, reference=scan(), points=POINTS)
    torch.testing.assert_close(found.points, POINTS.double() + 100.0)
    torch.testing.assert_close(found.score, torch.ones(2), atol=2e-3, rtol=0)


def test_it_is_what_matcher_and_embedder_do_in_turn(network: nn.Module) -> None:
    matcher, embedder = PointMatcher(mode="mutual"), VolumeEmbedder()
    expected = matcher(embedder(scan(), network), embedder(scan(7.0), network), POINTS)
    found = PointMatchInferer(matcher, embedder)(scan(7.0)[None], network, reference=scan()[None], points=POINTS)
    assert torch.equal(found.points, expected.points)
    assert torch.equal(found.cycle_error, expected.cycle_error)


def test_wrapped_networks_are_asked_alone(network: nn.Module) -> None:
    class Wrapper(nn.DataParallel):
        def forward(self, *inputs: object, **kwargs: object) -> object:
            raise AssertionError("processes would wait for each other")

    found = inferer()(scan(), Wrapper(network), reference=scan(), points=POINTS)
    torch.testing.assert_close(found.points, POINTS.double())


@pytest.mark.parametrize(
    ("given", "missing"), [({"points": POINTS}, "reference"), ({"reference": scan()}, "points"), ({}, "reference")]
)
def test_what_is_missing_is_named(network: nn.Module, given: dict, missing: str) -> None:
    with pytest.raises(InputError, match=f"patient7.*{missing}"):
        inferer()(scan(), network, case="patient7", **given)
