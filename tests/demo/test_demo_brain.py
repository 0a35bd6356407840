# SPDX-License-Identifier: Apache-2.0
"""The MNI152 brain: taken from the wheel unchanged, and labelled by the stated rule."""

from __future__ import annotations

import importlib.util
import socket

import numpy as np
import pytest

from monai_ext.demo.mni_brain import BrainMaps, load_brain, source_files
from monai_ext.demo.slabs import SLABS


@pytest.fixture(scope="module")
def brain() -> BrainMaps:
    return load_brain()


def test_one_millimetre_is_what_nilearn_itself_loads(brain: BrainMaps) -> None:
    datasets = pytest.importorskip("nilearn.datasets", reason='pip install "monai-ext[demo]"')
    for ours, load in (
        (brain.t1, datasets.load_mni152_template),
        (brain.grey, datasets.load_mni152_gm_template),
        (brain.white, datasets.load_mni152_wm_template),
    ):
        theirs = load(resolution=1)
        np.testing.assert_allclose(ours, theirs.get_fdata(), atol=1e-6)
        np.testing.assert_array_equal(brain.grid.affine, theirs.affine)


def test_labels_follow_the_rule_voxel_by_voxel(brain: BrainMaps) -> None:
    label = brain.label()
    rng = np.random.default_rng(0)
    for index in zip(*(rng.integers(20, size - 20, 3000) for size in label.shape), strict=True):
        grey, white = float(brain.grey[index]), float(brain.white[index])
        shares = [max(0.0, 1 - grey - white), grey, white]
        expected = 1 + shares.index(max(shares)) if brain.t1[index] > 0 else 0
        assert label[index] == expected or np.isclose(*sorted(shares)[1:], atol=1e-6), index


def test_classes_are_ordered_by_brightness(brain: BrainMaps) -> None:
    label = brain.label()
    csf, grey, white = (np.median(brain.t1[label == value]) for value in (1, 2, 3))
    assert csf < grey < white
    assert not brain.t1[label == 0].any()


def test_a_coarse_brain_keeps_the_volumes_of_the_tissues(brain: BrainMaps) -> None:
    coarse = load_brain(resolution=2)
    assert coarse.grid.shape == (99, 117, 95)
    for fine_map, coarse_map in zip(brain.maps, coarse.maps, strict=True):
        np.testing.assert_allclose(coarse_map.sum(dtype=float) * 8, fine_map.sum(dtype=float), rtol=1e-5)


def test_the_test_slab_is_central_and_rich_and_training_is_the_largest(brain: BrainMaps) -> None:
    label = brain.label()
    counts = {slab.part: np.bincount(label[slab.box(brain.grid)].ravel(), minlength=4) for slab in SLABS}
    assert counts["test"][2] > 200_000
    assert counts["test"][3] > 200_000
    assert counts["training"][1:].sum() > counts["test"][1:].sum() > counts["validation"][1:].sum()
    filled = np.flatnonzero(label.any(axis=(0, 1)))
    chosen = SLABS[2].slices(brain.grid)
    middle = ((chosen.start + chosen.stop) / 2 - filled[0]) / (filled[-1] - filled[0])
    assert 0.4 < middle < 0.6


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_brain(resolution=4).t1.any()


def test_a_missing_nilearn_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "monai-ext\[demo\]"'):
        source_files()
