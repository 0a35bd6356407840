# SPDX-License-Identifier: Apache-2.0
"""The command track: what has become of each lesion in one or two follow-ups, as table, JSON and page."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from monai_ext.commands._fire import main
from tests.followup.toy_bundle import grid, places, world, write_bundle, write_points, write_scan
from tests.report.test_page import Elements

BEFORE, LATER, LAST = grid(-8, (4, 2, -30)), grid(15, (-20, 9, 11)), grid(40, (1, 1, 1))
NAMES = ["liver", "<b>lung</b>", "node"]
SIZES = ["10", "12", ""]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A baseline with three lesions and two follow-ups, all in oblique grids of their own."""
    write_scan(tmp_path / "before.nii.gz", BEFORE, codes="LPS")
    write_scan(tmp_path / "later.nii.gz", LATER, codes="SAR")
    write_scan(tmp_path / "last.nii.gz", LAST, codes="PIR")
    write_points(tmp_path / "lesions.csv", world(BEFORE, places(3)), NAMES, diameter_mm=SIZES)
    return tmp_path


def run(bundle: Path, folder: Path, *words: str, followup: str = "later.nii.gz") -> int:
    later = ",".join(str(folder / name) for name in followup.split(","))
    given = ["--baseline", str(folder / "before.nii.gz"), "--lesions", str(folder / "lesions.csv")]
    target = ["--followup", later, "--output", str(folder / "out")]
    return main(["track", *given, *target, "--bundle_root", str(bundle), *words])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out" / "lesions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content_of(folder: Path) -> dict:
    return json.loads((folder / "out" / "lesions.json").read_text(encoding="utf-8"))


def shifted(affine: NDArray[np.float64], shift: tuple[float, float, float]) -> NDArray[np.float64]:
    return world(affine, places(3)) + np.array(shift)


def test_lesions_are_found_where_they_are(bundle: Path, study: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(bundle, study) == 0
    assert "later.nii.gz: 3 found\n" in capsys.readouterr().out
    rows = rows_of(study)
    assert [(row["lesion"], row["status"]) for row in rows] == [(name, "found") for name in NAMES]
    found = [[float(row[f"followup_{axis}_ras_mm"]) for axis in "xyz"] for row in rows]
    np.testing.assert_allclose(found, world(LATER, places(3)), atol=2e-3)
    assert [row["baseline_diameter_mm"] for row in rows] == ["10.0", "12.0", ""]
    assert {row["distance_mm"] for row in rows} == {""}


def test_a_list_at_follow_up_tells_matched_lost_and_new(bundle: Path, study: Path) -> None:
    there = shifted(LATER, (2.0, -1.0, 2.0))
    elsewhere = world(LATER, np.array([[6.5, 20.5, 12.5]]))
    write_points(
        study / "found.csv", np.concatenate([there[[1, 0]], elsewhere]), ["x", "y", "z"], diameter_mm=["9"] * 3
    )
    assert run(bundle, study, "--followup_lesions", str(study / "found.csv"), "--max_distance_mm", "5") == 0
    rows = rows_of(study)
    assert [(row["lesion"], row["status"], row["listed_as"]) for row in rows] == [
        ("liver", "matched", "y"),
        ("<b>lung</b>", "matched", "x"),
        ("node", "lost", ""),
        ("", "new", "z"),
    ]
    assert [row["distance_mm"] for row in rows[:2]] == ["3.0", "3.0"]
    assert [(row["change_mm"], row["change_percent"]) for row in rows[:2]] == [("-1.0", "-10.0"), ("-3.0", "-25.0")]
    np.testing.assert_allclose(
        [[float(rows[3][f"baseline_{axis}_ras_mm"]) for axis in "xyz"]],
        world(BEFORE, np.array([[6.5, 20.5, 12.5]])),
        atol=2e-3,
    )
    (later,) = content_of(study)["followups"]
    assert later["counts"] == {"found": 0, "matched": 2, "uncertain": 0, "lost": 1, "new": 1}
    assert (later["diameters"]["baseline_mm"], later["diameters"]["followup_mm"]) == (22.0, 18.0)


def test_two_follow_ups_are_in_their_order_and_one_may_have_no_list(bundle: Path, study: Path) -> None:
    write_points(study / "found.csv", shifted(LAST, (0.0, 0.0, 1.0)), ["x", "y", "z"])
    words = ["--followup_lesions", f",{study / 'found.csv'}"]
    assert run(bundle, study, *words, followup="later.nii.gz,last.nii.gz") == 0
    rows = rows_of(study)
    assert [(Path(row["followup"]).name, row["status"]) for row in rows] == [
        *[("later.nii.gz", "found")] * 3,
        *[("last.nii.gz", "matched")] * 3,
    ]
    found = [[float(row[f"followup_{axis}_ras_mm"]) for axis in "xyz"] for row in rows[3:]]
    np.testing.assert_allclose(found, world(LAST, places(3)), atol=2e-3)
    content = content_of(study)
    assert [Path(later["scan"]).name for later in content["followups"]] == ["later.nii.gz", "last.nii.gz"]
    assert [later["listed"] is None for later in content["followups"]] == [True, False]


def test_what_matching_does_not_accept_is_uncertain_with_a_reason(bundle: Path, study: Path) -> None:
    assert run(bundle, study, "--min_score", "1.5") == 0
    assert {(row["status"], row["reason"]) for row in rows_of(study)} == {("uncertain", "score 1.00 below 1.5")}


def test_a_match_that_leads_back_elsewhere_is_uncertain_and_not_lost(bundle: Path, study: Path) -> None:
    write_scan(study / "later.nii.gz", LATER, seed=7)  # of another patient
    write_points(study / "found.csv", np.array([[500.0, 0.0, 0.0]]))
    words = ["--followup_lesions", str(study / "found.csv"), "--min_score", "-1", "--max_distance_mm", "1"]
    assert run(bundle, study, *words, "--max_cycle_mm", "1000") == 0
    lost = {row["lesion"]: float(row["cycle_error_mm"]) for row in rows_of(study) if row["status"] == "lost"}
    assert max(lost.values()) > 10
    assert run(bundle, study, *words) == 0
    statuses = {row["lesion"]: (row["status"], row["reason"]) for row in rows_of(study)}
    for name, error in lost.items():
        assert statuses[name][0] == ("uncertain" if error > 10 else "lost")
        assert ("leads back" in statuses[name][1]) == (error > 10)


def test_lps_is_the_same_place(bundle: Path, study: Path) -> None:
    flipped = world(BEFORE, places(3)) * [-1, -1, 1]
    lines = ["point,x,y,z", *(f"p{i},{x},{y},{z}" for i, (x, y, z) in enumerate(flipped.tolist()))]
    (study / "lesions.csv").write_text("\n".join(lines), encoding="utf-8")
    assert run(bundle, study, "--space", "LPS") == 0
    found = [[float(row[f"followup_{axis}_lps_mm"]) for axis in "xyz"] for row in rows_of(study)]
    np.testing.assert_allclose(found, world(LATER, places(3)) * [-1, -1, 1], atol=2e-3)
    assert content_of(study)["space"] == "LPS"


def test_an_empty_list_at_follow_up_means_that_all_are_lost(bundle: Path, study: Path) -> None:
    (study / "found.csv").write_text("point,x_ras_mm,y_ras_mm,z_ras_mm\n", encoding="utf-8")
    assert run(bundle, study, "--followup_lesions", str(study / "found.csv")) == 0
    assert {row["status"] for row in rows_of(study)} == {"lost"}


def test_the_page_shows_every_lesion_and_no_name_becomes_code(bundle: Path, study: Path) -> None:
    assert run(bundle, study, followup="later.nii.gz,last.nii.gz") == 0
    html = (study / "out" / "report.html").read_text(encoding="utf-8")
    assert Elements(html).open == []
    assert "<b>lung" not in html
    data = re.search(r'id="linked-data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    points = json.loads(data[1])["points"]
    assert [point["name"] for point in points] == NAMES * 2
    assert [point["group"] for point in points] == [0, 0, 0, 1, 1, 1]
    assert all(len(side) == 3 for point in points for side in point["views"])


def test_a_try_without_weights_says_so_everywhere(tmp_path: Path, study: Path) -> None:
    bare = write_bundle(tmp_path / "bare", weights=False)
    assert run(bare, study) == 1
    assert not (study / "out").exists()
    assert run(bare, study, "--untrained") == 0
    assert {row["reason"] for row in rows_of(study)} == {"the network is not trained"}
    assert content_of(study)["note"] == "the network is not trained"
    assert content_of(study)["how"]["weights"] == "none, the network is not trained"
    assert "The network is not trained: what this page shows" in (study / "out" / "report.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--output", "."], r"lesions\.csv: would overwrite the input .*choose another output folder"),
        (["--output", "later.nii.gz"], "output must be a folder, there is a file of this name"),
        (["--followup", "later.nii.gz,,last.nii.gz"], "names nothing between two commas"),
        (["--followup_lesions", "a.csv,b.csv"], "2 lists for 1 follow-ups"),
        (["--max_distance_mm", "-1"], "max_distance_mm must not be negative"),
        (["--followup", "none.nii.gz"], r"none\.nii\.gz: no such file"),
        (["--lesions", "none.csv"], r"none\.csv: cannot be read"),
    ],
)
def test_wrong_input_is_one_line_and_changes_nothing(
    bundle: Path,
    study: Path,
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(study)
    before = {path: path.read_bytes() for path in study.iterdir()}
    assert run(bundle, study, *words) == 1
    shown = capsys.readouterr().err
    assert re.search(told, shown)
    assert len(shown.splitlines()) == 1
    assert {path: path.read_bytes() for path in study.iterdir()} == before


def test_a_follow_up_whose_name_has_a_comma_is_one_scan(bundle: Path, study: Path) -> None:
    nib.save(nib.load(study / "later.nii.gz"), study / "later,1.nii.gz")
    words = ["--followup", str(study / "later,1.nii.gz")]
    assert run(bundle, study, *words) == 0
    assert len(rows_of(study)) == 3
