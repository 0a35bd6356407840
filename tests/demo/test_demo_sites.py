# SPDX-License-Identifier: Apache-2.0
"""Each simulated site does to the brain what its description says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monai_ext.demo.grid import average_onto
from monai_ext.demo.mni_brain import BrainMaps, load_brain
from monai_ext.demo.sites import SITES, SimulatedSite, simulate_site

by_site = pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)


@pytest.fixture(scope="module")
def brain() -> BrainMaps:
    whole = load_brain(resolution=2)
    return whole.crop(whole.box(4))


def test_there_are_six_different_sites() -> None:
    assert len({site.name for site in SITES}) == 6
    assert len({(site.contrast, site.bias, site.spacing, site.noise) for site in SITES}) == 6


@by_site
def test_background_noise_is_rician_with_the_stated_deviation(brain: BrainMaps, site: SimulatedSite) -> None:
    image, label, grid = simulate_site(brain, site, seed=0)
    empty = average_onto(brain.brain, brain.grid, grid) == 0
    # without signal the Rician magnitude is Rayleigh distributed: mean sigma * sqrt(pi / 2)
    assert image[empty].mean() / site.scale == pytest.approx(site.noise * np.sqrt(np.pi / 2), rel=0.05)
    assert image.shape == label.shape == grid.shape
    assert set(np.unique(label)) == {0, 1, 2, 3}


@by_site
def test_bias_field_spans_the_stated_factor(brain: BrainMaps, site: SimulatedSite) -> None:
    flat = replace(site, noise=0.0, scale=10000, spacing=(1.0, 1.0, 1.0), contrast=((0.0, 1.0), (1.0, 1.0)))
    image, _, _ = simulate_site(brain, flat, seed=0)
    field = image[brain.brain == 1] / 10000
    assert field.max() == pytest.approx(site.bias, rel=0.02)
    assert field.min() == pytest.approx(1 / site.bias, rel=0.02)


def test_contrast_is_inverted_at_one_site_only(brain: BrainMaps) -> None:
    inverted = []
    for site in SITES:
        image, label, _ = simulate_site(brain, site, seed=0)
        csf, grey, white = (float(np.median(image[label == value])) for value in (1, 2, 3))
        assert csf < grey < white or csf > grey > white
        if csf > white:
            inverted.append(site.name)
    assert inverted == ["inverted"]


def test_resolution_is_the_sites_own() -> None:
    brain = load_brain()
    brain = brain.crop((slice(60, 90), slice(80, 110), slice(60, 90)))
    for site in SITES:
        image, _, grid = simulate_site(brain, site, seed=0)
        assert grid.spacing == site.spacing
        assert image.shape == tuple(int(np.ceil(30 / size)) for size in site.spacing)


def test_the_seed_changes_the_scan_but_not_the_anatomy(brain: BrainMaps) -> None:
    first, first_label, _ = simulate_site(brain, SITES[1], seed=0)
    again, _, _ = simulate_site(brain, SITES[1], seed=0)
    other, other_label, _ = simulate_site(brain, SITES[1], seed=1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(first_label, other_label)
