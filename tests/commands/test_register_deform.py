# SPDX-License-Identifier: Apache-2.0
"""The step deform of the command register: it goes on from what there is, and ITK agrees with the result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from monai_ext.commands._fire import main
from tests.commands.anatomy_bundle import (
    AnatomyDeformation,
    WaveDeformation,
    write_anatomy,
    write_anatomy_bundle,
    write_deformation_bundle,
)
from tests.commands.test_register import bump, by_itk, record_of, run, write_pairs_of_points
from tests.followup.toy_bundle import grid, places, world, write_bundle, write_scan

FIXED, MOVING = grid(turn=-8, shift=(4, 2, -30)), grid(turn=-6, shift=(5, 1, -29))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "toy")
    write_deformation_bundle(folder / "wave", WaveDeformation)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    for name, affine, codes in (("a", FIXED, "LPS"), ("b", MOVING, "PIL")):
        write_scan(tmp_path / f"{name}.nii.gz", affine, codes=codes)
    write_pairs_of_points(tmp_path / "points.csv", world(FIXED, places(5)), world(MOVING, places(5)))
    return tmp_path


def take(bundles: Path, pair: Path, steps: str, *words: str, output: str = "out") -> dict[str, Any]:
    given = ("--deform_bundle", str(bundles / "wave"), "--steps", steps, "--points", str(pair / "points.csv"))
    assert run(bundles / "toy", pair, *given, *words, output=output) == 0
    return record_of(pair, output)


@pytest.mark.parametrize("steps", ["deform", "affine,coarse,deform,instance"])
def test_itk_maps_points_and_resamples_as_we_say(bundles: Path, pair: Path, steps: str) -> None:
    words = ("--instance_iterations", "2") if "instance" in steps else ()
    record, out = take(bundles, pair, steps, *words), pair / "out"
    assert [step["step"] for step in record["steps"]] == ["before", *steps.split(",")]
    fixed, mapped = ([point[name] for point in record["points"]] for name in ("fixed", "mapped"))
    np.testing.assert_allclose(by_itk(out / "transform.h5", fixed), mapped, atol=1e-3)
    np.testing.assert_allclose(by_itk(out / "inverse.h5", mapped), fixed, atol=0.1)
    assert record["inverse"]["residual_max_mm"] < 0.1
    moving, reference = (sitk.ReadImage(str(pair / f"{name}.nii.gz"), sitk.sitkFloat64) for name in "ba")
    least = float(sitk.GetArrayFromImage(moving).min())
    theirs = sitk.Resample(moving, reference, sitk.ReadTransform(str(out / "transform.h5")), sitk.sitkLinear, least)
    ours = sitk.ReadImage(str(out / "warped.nii.gz"), sitk.sitkFloat64)
    np.testing.assert_allclose(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs), atol=1e-3)


def test_the_networks_displacement_comes_first_and_what_there_was_after_it(bundles: Path, pair: Path) -> None:
    """By ITK alone: the whole at x is what there was, at x plus the wave there."""
    before = "affine,coarse"
    for steps in (before, "deform", f"{before},deform"):
        take(bundles, pair, steps, output=steps)
    inner = world(FIXED, np.random.default_rng(0).uniform(4, 19, (40, 3)))
    waved = by_itk(pair / "deform" / "transform.h5", inner.tolist())
    one_by_one = by_itk(pair / before / "transform.h5", waved.tolist())
    whole = by_itk(pair / f"{before},deform" / "transform.h5", inner.tolist())
    np.testing.assert_allclose(whole, one_by_one, atol=0.03)
    assert np.linalg.norm(waved - inner, axis=1).max() > 2.0


def test_how_far_the_network_displaces_is_told(bundles: Path, pair: Path) -> None:
    step = take(bundles, pair, "deform")["steps"][-1]
    assert step["displaced_max_mm"] == pytest.approx(2 * 1.2 * np.sqrt(1 + 0.25 + 0.49), rel=0.02)
    assert 0.1 * step["displaced_max_mm"] < step["displaced_mean_mm"] < step["displaced_max_mm"]


def test_the_ideal_network_takes_a_known_deformation_away(tmp_path: Path) -> None:
    """The fixed scan shows at x what the moving one shows at M (x + bump(x))."""
    bundle, turned = write_anatomy_bundle(tmp_path / "ideal"), grid(5, (3, -2, 4), spacing=1.0)
    deform = write_deformation_bundle(tmp_path / "deform", AnatomyDeformation)
    at = write_anatomy(tmp_path / "a.nii.gz", grid(), lambda x: x + bump(x))
    write_anatomy(tmp_path / "b.nii.gz", turned @ grid(), lambda x: world(np.linalg.inv(turned), x))
    fixed = at[(np.abs(at - [31, 31, 23]) < [20, 20, 14]).all(axis=1)][::25]
    points = write_pairs_of_points(tmp_path / "points.csv", fixed, world(turned, fixed + bump(fixed)))
    words = ("--points", str(points), "--deform_bundle", str(deform))
    assert run(bundle, tmp_path, *words, "--steps", "affine,deform") == 0
    _, affine, deformed = record_of(tmp_path)["steps"]
    assert deformed["tre_mm"]["mean"] < 0.1 * affine["tre_mm"]["mean"]
    assert deformed["folding_percent"] == 0 < deformed["sd_log_j"]
    assert deformed["ncc"] > affine["ncc"]


def test_the_record_names_both_networks(bundles: Path, pair: Path) -> None:
    how = take(bundles, pair, "affine,deform")["how"]
    assert how["bundle"] == "toy 0.1.0"
    assert (how["deform"]["bundle"], how["deform"]["untrained"]) == ("wave 0.2.0", False)
    assert re.fullmatch("[0-9a-f]{64}", how["deform"]["weights_sha256"])
    assert "deform" not in take(bundles, pair, "affine", output="other")["how"]


def test_only_what_the_steps_need_is_embedded(bundles: Path, pair: Path) -> None:
    costs = [set(take(bundles, pair, steps, output=steps)["costs"]) for steps in ("deform", "affine,deform")]
    assert {"embed", "embed again"} & costs[0] == set()
    assert {"embed", "embed again"} & costs[1] == {"embed"}


def test_without_weights_it_says_what_to_do_and_a_try_says_that_it_is_one(
    bundles: Path, pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_deformation_bundle(tmp_path / "bare", WaveDeformation, weights=False)
    words = ("--deform_bundle", str(tmp_path / "bare"), "--steps", "affine,deform")
    assert run(bundles / "toy", pair, *words) == 1
    shown = capsys.readouterr().err
    assert re.search(r"model\.pt: there are no weights of bare for the step deform; train .* --deform_ckpt", shown)
    assert len(shown.splitlines()) == 1
    assert run(bundles / "toy", pair, *words, "--untrained", "True") == 0
    record = record_of(pair)
    assert (record["note"], record["how"]["deform"]["untrained"]) == ("the network is not trained", True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--deform_strid", "8"], r"strid: is no knob of .*wave"),
        (
            ["--deform_seed", "8", "--steps", "affine"],
            "deform_seed: is a knob of deform, which --steps affine",
        ),
        (["--deform_bundle", "nobody"], "nobody: no bundle"),
        (["--deform_ckpt", "none.pt"], r"none\.pt: there are no weights of wave"),
        (["--output", "busy", "--deform_ckpt", "busy/transform.h5"], r"transform\.h5: would overwrite the input"),
    ],
)
def test_wrong_input_is_one_line(
    bundles: Path,
    pair: Path,
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pair)
    (pair / "busy").mkdir()
    (pair / "busy" / "transform.h5").write_bytes(b"weights")
    scans = ["--fixed", "a.nii.gz", "--moving", "b.nii.gz", "--output", "out", "--bundle_root", str(bundles / "toy")]
    deform = ["--deform_bundle", str(bundles / "wave"), "--steps", "affine,deform"]
    assert main(["register", *scans, *deform, *words]) == 1
    shown = capsys.readouterr().err
    assert re.search(told, shown)
    assert len(shown.splitlines()) == 1
    assert not (pair / "out").exists()
