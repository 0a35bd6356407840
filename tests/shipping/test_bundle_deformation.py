# SPDX-License-Identifier: Apache-2.0
"""The learned step, with the real bundle: what the network is given, and which weights belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anatomical_registration.network import AnatomicalRegistrationNet

from monai_ext.commands._bundle import find_bundle
from monai_ext.errors import InputError
from monai_ext.networks.nets.anatomical_embedding_net import AnatomicalEmbeddingNet
from monai_ext.registration import TransformChain, WorldDisplacement
from monai_ext.shipping.bundle_deformation import BundleDeformation
from tests.followup.toy_bundle import grid, write_scan

BUNDLE = find_bundle("anatomical_registration")
SMALL = {"base_channels": 2, "embedding_dim": 4}
SCALED = {"intensity": "percentile", "intensity_lower": 0.5, "intensity_upper": 99.5}
KNOBS = {**SCALED, "spacing": 4.0}
STILL = TransformChain([])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans in one world, a small network that displaces by voxels, and two embedders."""
    found = tmp_path_factory.mktemp("deformation")
    write_scan(found / "a.nii.gz", grid(-8), seed=0)
    write_scan(found / "b.nii.gz", grid(-8), seed=1)
    torch.manual_seed(0)
    for name in ("embedder", "other"):
        torch.save(AnatomicalEmbeddingNet(**SMALL).state_dict(), found / f"{name}.pt")
    network = AnatomicalRegistrationNet(**SMALL, embedder_path=found / "embedder.pt").load_pretrained()
    torch.nn.init.normal_(network.registration.flow.weight, std=0.5)
    torch.save(network.state_dict(), found / "model.pt")
    network.save_registration(found / "registration.safetensors")
    return found


def deformation(folder: Path, weights: str = "model.pt", **settings: Any) -> BundleDeformation:
    return BundleDeformation(BUNDLE, folder / weights, **{"knobs": KNOBS, **settings})


def displaced(deform: BundleDeformation, folder: Path, transform: TransformChain = STILL) -> WorldDisplacement:
    return deform(folder / "a.nii.gz", folder / "b.nii.gz", transform)


def test_the_network_gets_the_moving_scan_first_and_its_voxels_become_mm(folder: Path) -> None:
    deform = deformation(folder)
    fixed, moving = (deform.preprocessing({"image": str(folder / f"{name}.nii.gz")})["image"] for name in "ab")
    with torch.no_grad():
        ddf = deform.network(torch.cat([moving.as_tensor(), fixed.as_tensor()])[None])[0].double().numpy()
    expected = np.einsum("ij,jxyz->ixyz", fixed.affine.numpy()[:3, :3], ddf)
    found = displaced(deform, folder)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(found.grid.affine.numpy(), fixed.affine.numpy())


def test_the_moving_scan_is_brought_by_what_is_known(folder: Path, tmp_path: Path) -> None:
    """The same scan 20 mm further to the left, where the transform says so, is the same."""
    write_scan(tmp_path / "a.nii.gz", grid(-8), seed=0)
    write_scan(tmp_path / "b.nii.gz", grid(-8, shift=(-20, 0, 0)), seed=1)
    shift = torch.eye(4)
    shift[0, 3] = -20
    deform = deformation(folder)
    found = displaced(deform, tmp_path, TransformChain([shift]))
    torch.testing.assert_close(found.values, displaced(deform, folder).values, atol=1e-2, rtol=0)
    assert (displaced(deform, tmp_path).values - found.values).abs().max() > 0.1


def test_weights_without_an_embedder_need_the_one_that_they_were_trained_on(folder: Path) -> None:
    bound = deformation(folder, "registration.safetensors", embedder=folder / "embedder.pt")
    assert torch.equal(displaced(bound, folder).values, displaced(deformation(folder), folder).values)
    with pytest.raises(InputError, match=r"registration\.safetensors: was trained on another embedder"):
        deformation(folder, "registration.safetensors", embedder=folder / "other.pt")


def test_weights_tell_the_arguments_of_the_embedder(folder: Path) -> None:
    embedder = deformation(folder).network.embedder
    assert embedder.state_dict()["encoder.stem.conv.weight"].shape[0] == SMALL["base_channels"]


def test_knobs_of_the_other_bundle_count_where_this_one_has_them(folder: Path) -> None:
    shared = {**SCALED, "spacing": 6.0, "radius": 3}
    spacings = [
        displaced(deformation(folder, knobs=own, shared=shared), folder).grid.spacing for own in ({}, {"spacing": 4.0})
    ]
    np.testing.assert_allclose(spacings, [[6.0] * 3, [4.0] * 3], rtol=1e-4)


def test_what_is_missing_or_unknown_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pt: there are no weights of anatomical_registration for the step"):
        deformation(folder, "none.pt")
    with pytest.raises(InputError, match=r"spacin: is no knob of .* \(did you mean spacing\?\)"):
        deformation(folder, knobs={"spacin": 4.0})


def test_an_untrained_network_is_a_try(folder: Path) -> None:
    random = deformation(folder, knobs={**KNOBS, **SMALL}, untrained=True)
    assert random.provenance["untrained"] is True
    assert random.provenance["weights"] is None
    assert displaced(random, folder).values.abs().max() < 0.1  # before training it hardly moves
