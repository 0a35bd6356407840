# SPDX-License-Identifier: Apache-2.0
"""The command register: a known movement is found, ITK agrees with every file, and nothing is half done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from PIL import Image

from monai_ext.commands._fire import main
from monai_ext.registration import read_transform
from tests.commands.anatomy_bundle import write_anatomy, write_anatomy_bundle
from tests.followup.toy_bundle import SHAPE, grid, places, voxels, world, write_bundle, write_points, write_scan

FIXED, MOVING = grid(turn=-8, shift=(4, 2, -30)), grid(turn=15, shift=(-20, 9, 11))
LPS = np.array([-1.0, -1.0, 1.0])
EXACT = ("--refine", "False", "--min_points", "12")  # both scans have the same cells, so their centres match


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def write_array(path: Path, values: NDArray[Any], affine: NDArray[np.float64], codes: str = "RAS") -> Path:
    image = nib.Nifti1Image(values, affine)
    wanted = nib.orientations.axcodes2ornt(codes)
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), wanted)), path)
    return path


def write_pairs_of_points(path: Path, fixed: NDArray[np.float64], moving: NDArray[np.float64]) -> Path:
    header = ["point", *(f"{scan}_{axis}_ras_mm" for scan in ("fixed", "moving") for axis in "xyz")]
    rows = [[f"p{i}", *map(str, [*one, *other])] for i, (one, other) in enumerate(zip(fixed, moving, strict=True))]
    path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with two scans of one thing in oblique grids, stored in different orders, their labels and points."""
    labels = np.digitize(voxels(), np.quantile(voxels(), [0.25, 0.5, 0.75])).astype(np.uint8)
    for name, affine, codes in (("a", FIXED, "LPS"), ("b", MOVING, "SAR")):
        write_scan(tmp_path / f"{name}.nii.gz", affine, codes=codes)
        write_array(tmp_path / f"{name}_label.nii.gz", labels, affine, codes)
    write_pairs_of_points(tmp_path / "points.csv", world(FIXED, places(5)), world(MOVING, places(5)))
    return tmp_path


def run(bundle: Path, folder: Path, *words: str, output: str = "out") -> int:
    files = {"fixed": folder / "a.nii.gz", "moving": folder / "b.nii.gz", "output": folder / output}
    given = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    return main(["register", *given, "--bundle_root", str(bundle), *words])


def record_of(folder: Path, output: str = "out") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / output / "registration.json").read_text(encoding="utf-8"))
    return content


def by_itk(path: Path, points: list[list[float]]) -> NDArray[np.float64]:
    """RAS mm as ITK maps them, which knows LPS alone."""
    transform = sitk.ReadTransform(str(path))
    return np.array([transform.TransformPoint((np.array(point) * LPS).tolist()) for point in points]) * LPS


def test_the_known_movement_is_found(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair, *EXACT, "--steps", "affine", "--points", str(pair / "points.csv")) == 0
    record = record_of(pair)
    np.testing.assert_allclose(record["matrix"], MOVING @ np.linalg.inv(FIXED), atol=1e-4)
    before, affine = record["steps"]
    assert before["tre_mm"]["mean"] > 40
    assert affine["tre_mm"]["max"] < 1e-3
    assert affine["ncc"] > 0.999 > before["ncc"]
    assert affine["inliers"] == affine["matches"] == affine["grid_points"] == 4 * 4 * 3


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("affine", ()),
        ("coarse", ()),
        ("affine,coarse", ("--reembed", "False")),
        ("affine,instance", ("--instance_iterations", "3")),
        ("affine,coarse,instance", ("--instance_iterations", "3", "--coarse_field", "nw")),
    ],
)
def test_itk_maps_points_and_resamples_as_we_say(bundle: Path, pair: Path, steps: str, words: tuple[str, ...]) -> None:
    write_scan(pair / "b.nii.gz", grid(-6, (5, 1, -29)), codes="PIL")
    assert run(bundle, pair, "--steps", steps, "--points", str(pair / "points.csv"), *words) == 0
    record, out = record_of(pair), pair / "out"
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
    np.testing.assert_allclose(nib.load(out / "warped.nii.gz").affine, nib.load(pair / "a.nii.gz").affine, atol=1e-5)


def test_the_affine_file_is_the_matrix_of_the_record(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair, *EXACT) == 0
    found = read_transform(pair / "out" / "affine.tfm").matrix
    assert found is not None
    np.testing.assert_allclose(found, record_of(pair)["matrix"], atol=1e-9)


def bump(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth displacement (N, 3) in mm, strongest in the middle of the toy scan."""
    near = np.exp(-0.5 * (((points - np.array([32.0, 32.0, 24.0])) / 14) ** 2).sum(axis=1, keepdims=True))
    return 5 * near * np.array([0.7, -0.6, 0.4])


def test_each_step_is_nearer_to_a_known_deformation(tmp_path: Path) -> None:
    """The fixed scan shows at x what the moving one shows at M (x + bump(x))."""
    bundle, turned = write_anatomy_bundle(tmp_path / "ideal"), grid(5, (3, -2, 4), spacing=1.0)
    at = write_anatomy(tmp_path / "a.nii.gz", grid(), lambda x: x + bump(x))
    write_anatomy(tmp_path / "b.nii.gz", turned @ grid(), lambda x: world(np.linalg.inv(turned), x))
    fixed = at[(np.abs(at - [31, 31, 23]) < [20, 20, 14]).all(axis=1)][::25]
    points = write_pairs_of_points(tmp_path / "points.csv", fixed, world(turned, fixed + bump(fixed)))
    words = ("--points", str(points), "--steps", "affine,coarse,instance", "--coarse_spacing", "8")
    assert run(bundle, tmp_path, *words) == 0
    record = record_of(tmp_path)
    before, affine, coarse, instance = (step["tre_mm"]["mean"] for step in record["steps"])
    assert instance < coarse < 0.5 * affine
    assert affine < 0.5 * before
    assert coarse < 0.8
    assert [step["folding_percent"] for step in record["steps"]] == [0] * 4
    assert all(step["sd_log_j"] > 0 for step in record["steps"][2:])


def test_labels_come_along_and_are_compared(bundle: Path, pair: Path) -> None:
    labels = {"--moving_label": "b_label.nii.gz", "--fixed_label": "a_label.nii.gz"}
    words = [word for name, file in labels.items() for word in (name, str(pair / file))]
    assert run(bundle, pair, *EXACT, "--steps", "affine", *words) == 0
    before, after = record_of(pair)["steps"]
    assert set(after["dice"]) == {"1", "2", "3", "mean"}
    assert after["dice"]["mean"] > 0.99 > 0.6 > before["dice"]["mean"]
    warped, truth = (nib.load(path) for path in (pair / "out" / "warped_label.nii.gz", pair / "a_label.nii.gz"))
    assert warped.get_data_dtype() == np.uint8
    assert (np.asarray(warped.dataobj) == np.asarray(truth.dataobj)).mean() > 0.99


def test_the_record_names_what_was_written_and_how(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair, *EXACT) == 0
    record = record_of(pair)
    assert sorted(record["files"]) == sorted(path.name for path in (pair / "out").iterdir())
    assert re.fullmatch("[0-9a-f]{64}", record["how"]["weights_sha256"])
    assert record["how"]["untrained"] is False
    assert set(record["how"]["versions"]) == {"monai_ext", "torch", "monai", "SimpleITK", "python"}
    assert {"affine", "coarse", "embed", "embed again", "inverse", "warp"} <= set(record["costs"])
    assert all(cost["seconds"] >= 0 and cost["peak_memory_mb"] > 50 for cost in record["costs"].values())


def test_the_picture_is_small_and_has_content(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair, *EXACT, "--steps", "affine") == 0
    path = pair / "out" / "picture.png"
    assert path.stat().st_size < 1 << 20
    with Image.open(path) as picture:
        assert len(picture.getcolors(1 << 24) or []) > 100


def test_masks_keep_points_inside_the_body(bundle: Path, pair: Path) -> None:
    half = np.zeros(SHAPE, np.uint8)
    half[:24] = 1
    write_array(pair / "a_mask.nii.gz", half, FIXED, "LPS")
    assert run(bundle, pair, *EXACT, "--steps", "affine", "--fixed_mask", str(pair / "a_mask.nii.gz")) == 0
    assert record_of(pair)["steps"][1]["grid_points"] == 3 * 4 * 3
    assert run(bundle, pair, *EXACT, "--steps", "affine", "--moving_mask", str(pair / "a_mask.nii.gz")) == 1


def test_a_threshold_of_the_bundle_is_the_body(tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture) -> None:
    strict = write_bundle(tmp_path / "strict")
    (strict / "configs" / "train.json").write_text('{"body_threshold": 2.0}', encoding="utf-8")
    assert run(strict, pair) == 1
    assert re.search(r"a\.nii\.gz: no voxel is above body_threshold 2; lower it", capsys.readouterr().err)
    assert run(strict, pair, "--body_threshold", "False", "--steps", "affine", *EXACT) == 0
    assert run(strict, pair, "--body_threshold", "0.5", "--steps", "affine", *EXACT) == 0


def test_without_weights_it_says_what_to_do_and_a_try_says_that_it_is_one(
    tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture
) -> None:
    bare = write_bundle(tmp_path / "bare", weights=False)
    assert run(bare, pair, *EXACT) == 1
    assert "there are no weights of bare; train them" in capsys.readouterr().err
    assert run(bare, pair, *EXACT, "--untrained", "True") == 0
    assert "note: the network is not trained" in capsys.readouterr().out
    record = record_of(pair)
    assert (record["note"], record["how"]["untrained"]) == ("the network is not trained", True)
    assert record["how"]["weights_sha256"] is None


def test_the_same_again_is_the_same(bundle: Path, pair: Path) -> None:
    for output in ("one", "two", "three"):
        assert run(bundle, pair, "--embedding_dir", str(pair / "kept"), output=output) == 0
    first = record_of(pair, "one")
    assert first["steps"] == record_of(pair, "two")["steps"] == record_of(pair, "three")["steps"]
    images = [(pair / name / "picture.png").read_bytes() for name in ("one", "two", "three")]
    assert images[0] == images[1] == images[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "coarse,affine"], "steps must come once each, in the order affine, coarse, deform, instance"),
        (["--steps", "elastic"], "steps must be some of affine, coarse, deform, instance, got elastic"),
        (["--threshold", "1.5"], r"b\.nii\.gz to a\.nii\.gz: 0 matched points, and min_points is 12; lower the"),
        (["--affine_min_points", "49"], r"b\.nii\.gz to a\.nii\.gz: \d+ matched points, and min_points is 49"),
        (["--coarse_threshold", "1.5"], "0 matched points after the affine map, and min_points is 12"),
        (["--estimator", "best"], "step affine: estimator must be one of"),
        (["--field", "best"], "step coarse: field must be one of lsq, nw, interp"),
        (["--field", "nw", "--steps", "affine"], "field: is a knob of coarse, which --steps affine does not take"),
        (["--stride", "3"], "stride of step affine must be a multiple of 2"),
        (["--stride", "large"], "stride of step (affine|coarse) must be of the kind int, got 'large'"),
        (["--mutual", "false"], "write it with a capital, --mutual False"),
        (["--strid", "8"], "strid: is no knob of"),
        (["--output", "a.nii.gz"], r"a\.nii\.gz: output must be a folder"),
        (["--moving", "busy/warped.nii.gz", "--output", "busy"], r"busy/warped\.nii\.gz: would overwrite the input"),
        (["--points", "busy/registration.json", "--output", "busy"], r"registration\.json: would overwrite the input"),
        (["--fixed_label", "a_label.nii.gz"], "--fixed_label is compared with --moving_label; give that too"),
        (["--moving_label", "b.nii.gz", "--fixed_label", "a.nii.gz"], r"a\.nii\.gz: has values that are no whole"),
        (["--moving", "none.nii.gz"], r"none\.nii\.gz: no such file"),
        (["--points", "plain.csv"], "plain.csv"),
        (["--bundle_root", "nobody"], "nobody: no bundle"),
    ],
)
def test_wrong_input_is_one_line_and_changes_nothing(
    bundle: Path,
    pair: Path,
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(pair)
    write_points(pair / "plain.csv", world(FIXED, places(4)))
    write_scan(pair / "busy" / "warped.nii.gz", MOVING)
    (pair / "busy" / "registration.json").write_text("{}", encoding="utf-8")
    before = {path: path.read_bytes() for path in pair.rglob("*.*") if path.is_file()}
    given = ["--fixed", "a.nii.gz", "--moving", "b.nii.gz", "--output", "out", "--bundle_root", str(bundle)]
    assert main(["register", *given, *words]) == 1
    shown = capsys.readouterr().err
    assert re.search(told, shown)
    assert len(shown.splitlines()) == 1
    assert {path: path.read_bytes() for path in pair.rglob("*.*") if path.is_file()} == before


def test_an_interrupted_run_leaves_no_record_and_no_half_file(
    bundle: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(bundle, pair, *EXACT, "--steps", "affine") == 0

    def interrupted(image: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", interrupted)
        assert run(bundle, pair, *EXACT, "--steps", "affine") == 130
    left = sorted(path.name for path in (pair / "out").iterdir())
    assert left == ["affine.tfm", "inverse.h5", "picture.png", "transform.h5", "warped.nii.gz"]
    assert nib.load(pair / "out" / "warped.nii.gz").shape == nib.load(pair / "a.nii.gz").shape
