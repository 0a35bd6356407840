# SPDX-License-Identifier: Apache-2.0
"""Each knob reaches the steps that know it, and nothing is silently dropped."""

from __future__ import annotations

import inspect

import pytest

from monai_ext.errors import InputError
from monai_ext.registration import SAMAffine, SAMCoarse
from monai_ext.shipping.registration_knobs import registration_knobs

ALL = ["affine", "coarse", "instance"]


def test_a_shared_name_reaches_all_steps_that_have_it() -> None:
    shared = {"stride": 6, "threshold": 0.5, "mutual": False, "min_points": 9, "refine": False}
    assert registration_knobs(ALL, shared).arguments == {"affine": shared, "coarse": shared, "instance": {}}


@pytest.mark.parametrize("names", [["stride", "coarse_stride"], ["coarse_stride", "stride"]])
def test_the_prefixed_name_has_the_last_word_in_any_order(names: list[str]) -> None:
    values = {"stride": 8, "coarse_stride": 2}
    found = registration_knobs(ALL, {name: values[name] for name in names}).arguments
    assert (found["affine"], found["coarse"]) == ({"stride": 8}, {"stride": 2})


def test_every_argument_of_a_step_can_be_reached() -> None:
    for step, kind in (("affine", SAMAffine), ("coarse", SAMCoarse)):
        defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
        found = registration_knobs(ALL, {f"{step}_{name}": value for name, value in defaults.items()})
        assert found.arguments[step] == defaults
        assert found.bundle == {}


def test_spacing_and_what_no_step_knows_is_the_bundles() -> None:
    knobs = {"spacing": 3.0, "seed": 1, "intensity_lower": -100, "cost": 1, "iterations": 2, "affine_field": "lsq"}
    found = registration_knobs(ALL, knobs)
    assert found.bundle == knobs
    assert found.arguments == {"affine": {}, "coarse": {}, "instance": {}}


def test_whole_numbers_are_numbers_but_switches_are_none() -> None:
    assert registration_knobs(ALL, {"threshold": 1}).arguments["affine"] == {"threshold": 1}
    with pytest.raises(InputError, match=r"threshold of step .* must be of the kind float, got True"):
        registration_knobs(ALL, {"threshold": True})
    with pytest.raises(InputError, match=r"stride of step .* must be of the kind int, got 2\.5"):
        registration_knobs(ALL, {"stride": 2.5})


@pytest.mark.parametrize("name", ["estimator", "affine_stride", "tolerance_mm"])
def test_a_knob_of_a_step_that_is_not_taken_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: is a knob of affine, which --steps coarse does not take"):
        registration_knobs(["coarse"], {name: 1})


def test_knobs_of_deform_are_those_of_its_bundle_without_the_prefix() -> None:
    found = registration_knobs(["affine", "deform"], {"deform_spacing": 4.0, "spacing": 2.0, "deform_stride": 3})
    assert found.deform == {"spacing": 4.0, "stride": 3}
    assert found.bundle == {"spacing": 2.0}
    assert found.arguments == {"affine": {}}


def test_knobs_of_deform_without_the_step_are_refused() -> None:
    with pytest.raises(InputError, match="deform_spacing: is a knob of deform, which --steps affine does not take"):
        registration_knobs(["affine"], {"deform_spacing": 4.0})


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([], "got none"),
        ([""], "steps must be some of affine, coarse, deform, instance"),
        (["affine", "affine"], "once each, in the order"),
        (["instance", "coarse"], "once each, in the order"),
        (["instance", "deform"], "in the order affine, coarse, deform, instance"),
    ],
)
def test_wrong_steps_are_refused(steps: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        registration_knobs(steps, {})
