# SPDX-License-Identifier: Apache-2.0
"""Matching by what a bundle's inference.json describes: its weights, its knobs, and scans embedded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anatomical_embedding import AnatomicalEmbeddingNet

from monai_ext.errors import InputError
from monai_ext.shipping.bundle_matching import BundleMatching
from tests.followup.toy_bundle import grid, places, world, write_bundle, write_scan

ANATOMICAL = Path(__file__).parents[2] / "bundles" / "anatomical_embedding"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    return [
        write_scan(tmp_path / f"{name}.nii.gz", grid(turn), seed)
        for seed, (name, turn) in enumerate([("a", 0), ("b", 9)])
    ]


@pytest.mark.parametrize(("keep_mb", "embedded"), [(100.0, 2), (0.0, 4)])
def test_scans_stay_in_memory_as_far_as_they_may(
    bundle: Path, scans: list[Path], keep_mb: float, embedded: int
) -> None:
    matching = BundleMatching(bundle, keep_mb=keep_mb)
    for scan in (scans[0], scans[0], scans[1], scans[0], scans[1]):
        matching.embed(scan)
    assert matching.embedded == embedded


def test_a_scan_is_the_same_by_whatever_path(bundle: Path, scans: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    matching = BundleMatching(bundle)
    monkeypatch.chdir(scans[0].parent)
    (scans[0].parent / "link.nii.gz").symlink_to(scans[0])
    assert matching.embed(Path("a.nii.gz")) is matching.embed(scans[0]) is matching.embed(Path("link.nii.gz"))


def test_settings_are_those_that_change_results(bundle: Path, tmp_path: Path) -> None:
    settings = BundleMatching(bundle).settings
    assert BundleMatching(bundle, knobs={"embedding_dir": str(tmp_path)}).settings == settings
    assert BundleMatching(bundle, bundle / "models" / "model.pt").settings == settings
    assert BundleMatching(bundle, knobs={"min_score": 0.1}).settings != settings
    assert BundleMatching(bundle, untrained=True).settings != settings
    other = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: weight + 0.1 for name, weight in other.items()}, tmp_path / "other.pt")
    assert BundleMatching(bundle, tmp_path / "other.pt").settings != settings


def test_weights_tell_the_arguments_of_their_network(tmp_path: Path) -> None:
    network = AnatomicalEmbeddingNet(base_channels=4, embedding_dim=6, lateral_kernel=3, semantic_head=True)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    found = BundleMatching(ANATOMICAL, tmp_path / "model.pt", {"intensity": "percentile", "intensity_lower": 1.0,
                                                              "intensity_upper": 99.0})  # fmt: skip
    assert found.network.state_dict().keys() == network.state_dict().keys()
    scan = write_scan(tmp_path / "a.nii.gz", grid())
    points = torch.from_numpy(world(grid(), places(3)))
    matched = found.match(scan, scan, points)
    np.testing.assert_allclose(matched.points, points, atol=2.0)
    assert found.provenance["weights"].startswith(f"{tmp_path / 'model.pt'} (sha256 ")
    assert found.note == ""


def test_what_a_part_says_against_a_knob_is_the_user_s_to_mend(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"^matcher: mode must be one of nn, mutual, fixed_point, got 'best'\.$"):
        BundleMatching(bundle, knobs={"mode": "best"})
    with pytest.raises(InputError, match=r"^embedder: memory_mb must be positive"):
        BundleMatching(bundle, knobs={"memory_mb": -1})
