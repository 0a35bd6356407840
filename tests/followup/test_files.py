# SPDX-License-Identifier: Apache-2.0
"""Files of matched points and lesions: what is written can be read, and nothing is overwritten."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from monai_ext.data.point_file import read_point_pairs, read_points
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError
from monai_ext.followup.lesion_list import read_lesions
from monai_ext.followup.lesion_tables import sum_of_diameters, write_lesion_json, write_lesion_table
from monai_ext.followup.match_table import MATCH_COLUMNS, write_matches
from monai_ext.followup.pair_list import ScanPair, check_outputs, read_pair_list
from monai_ext.followup.pair_record import PairRecord
from monai_ext.followup.track_lesions import track_lesions
from tests.followup.made_matches import lesions, matched

NAMES = ("a, b", '<b>"c"</b>')
POINTS = PointList(NAMES, torch.tensor([[1.25, -2.0, 3.0], [0.0, 5.0, -6.0]]))
MATCHES = matched([[10.12345678, 20.0, 30.0], [-4.0, 5.5, 6.0]], [True, False])


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_a_table_of_matches_is_read_back_as_pairs_of_points(tmp_path: Path, space: str) -> None:
    path = tmp_path / "found.csv"
    write_matches(path, POINTS, MATCHES, space)
    fixed, moving = read_point_pairs(path, "fixed", "moving")
    assert fixed.names == moving.names == NAMES
    torch.testing.assert_close(fixed.points, POINTS.points)
    torch.testing.assert_close(moving.points, MATCHES.points, atol=5e-5, rtol=0)
    assert tuple(fixed.extra) == MATCH_COLUMNS
    assert fixed.numbers("score").tolist() == [0.9, 0.3]
    assert fixed.extra["accepted"] == ("1", "0")
    header = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header[1] == f"fixed_x_{space.lower()}_mm"


@pytest.mark.parametrize("name", ["found.fcsv", "found.mrk.json"])
@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_slicer_s_lists_hold_places_and_status(tmp_path: Path, name: str, space: str) -> None:
    write_matches(tmp_path / name, POINTS, MATCHES, space, note="the network is not trained")
    found = read_points(tmp_path / name)
    assert found.names == NAMES
    torch.testing.assert_close(found.points, MATCHES.points)
    assert found.extra["description"] == (
        "accepted, score 0.90, leads back 0.5 mm away; the network is not trained",
        "not accepted, score 0.30, leads back 1.5 mm away; score 0.30 below 0.7; the network is not trained",
    )


def test_points_that_were_not_accepted_are_not_selected_in_slicer(tmp_path: Path) -> None:
    write_matches(tmp_path / "found.mrk.json", POINTS, MATCHES)
    (markup,) = json.loads((tmp_path / "found.mrk.json").read_text(encoding="utf-8"))["markups"]
    assert [point["selected"] for point in markup["controlPoints"]] == [True, False]
    write_matches(tmp_path / "found.fcsv", POINTS, MATCHES)
    lines = (tmp_path / "found.fcsv").read_text(encoding="utf-8").splitlines()
    column = lines[2].split("= ")[1].split(",").index("sel")
    assert [row[column] for row in csv.reader(lines[3:])] == ["1", "0"]


def test_another_suffix_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    pair = ScanPair(*(tmp_path / name for name in ("a.nii", "b.nii", "p.csv", "out.txt")))
    with pytest.raises(InputError, match=r"out\.txt: matched points are written to \.csv, \.fcsv, \.mrk\.json"):
        check_outputs([pair])


def write_list(path: Path, *rows: str, header: str = "fixed,moving,points,output") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_paths_of_a_list_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    path = write_list(tmp_path / "lists" / "pairs.csv", "a.nii,/b.nii,../p.csv,out/a.csv")
    monkeypatch.chdir(tmp_path)
    (pair,) = read_pair_list("lists/pairs.csv")
    found = [written.resolve() for written in (pair.fixed, pair.moving, pair.points, pair.output)]
    assert found == [path.parent / "a.nii", Path("/b.nii"), tmp_path / "p.csv", path.parent / "out" / "a.csv"]
    assert pair.report is None


def test_a_list_may_ask_for_pages(tmp_path: Path) -> None:
    header = "fixed,moving,points,output,report"
    rows = ("a.nii,b.nii,p.csv,a.csv,a.html", "a.nii,c.nii,p.csv,c.csv,")
    one, two = read_pair_list(write_list(tmp_path / "pairs.csv", *rows, header=header))
    assert (one.report, two.report) == (tmp_path / "a.html", None)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (("a.nii,b.nii,p.csv,p.csv",), r"p\.csv: would overwrite the input"),
        (("a.nii,b.nii,p.csv,x.csv", "a.nii,b.nii,x.csv,y.csv"), r"x\.csv: would overwrite the input"),
        (("a.nii,b.nii,p.csv,pairs.csv",), r"pairs\.csv: would overwrite the input"),
        (("a.nii,b.nii,p.csv,pairs.csv.record.jsonl",), r"record\.jsonl: .*"),
        (("a.nii,b.nii,p.csv,x.csv", "a.nii,c.nii,p.csv,./x.csv"), r"x\.csv: would be written twice"),
        (("a.nii,b.nii,p.csv,link.csv",), r"link\.csv: would overwrite the input"),
        (("a.nii,b.nii,p.csv,folder.csv",), r"folder\.csv: must be a file"),
        (("a.nii,,p.csv,x.csv",), "row 1 has no moving"),
        ((), "has no rows"),
    ],
)
def test_a_list_that_would_do_harm_is_refused(tmp_path: Path, rows: tuple[str, ...], told: str) -> None:
    (tmp_path / "p.csv").write_text("points", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to(tmp_path / "p.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=told):
        read_pair_list(write_list(tmp_path / "pairs.csv", *rows))
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == "points"


def test_a_list_of_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no column points, output"):
        read_pair_list(write_list(tmp_path / "pairs.csv", "a,b", header="fixed,moving"))
    with pytest.raises(InputError, match="cannot be read"):
        read_pair_list(tmp_path / "none.csv")


@pytest.fixture
def pair(tmp_path: Path) -> ScanPair:
    found = ScanPair(*(tmp_path / name for name in ("a.nii", "b.nii", "p.csv", "out.csv")))
    for path in (*found.inputs, found.output):
        path.write_text(path.name, encoding="utf-8")
    return found


def test_a_pair_is_done_until_an_input_its_output_or_the_settings_change(pair: ScanPair, tmp_path: Path) -> None:
    def record(mode: str = "nn") -> PairRecord:
        return PairRecord(tmp_path / "record.jsonl", {"mode": mode})

    first = record()
    assert not first.is_done(pair)
    first.add(pair)
    assert record().is_done(pair)
    assert not record("mutual").is_done(pair)
    pair.points.write_text("moved", encoding="utf-8")
    assert not record().is_done(pair)
    pair.points.write_text("p.csv", encoding="utf-8")
    assert record().is_done(pair)  # by content, whenever it was written
    pair.output.unlink()
    assert not record().is_done(pair)


def test_a_record_that_is_damaged_costs_work_and_nothing_else(pair: ScanPair, tmp_path: Path) -> None:
    for text in ("", "{", "[]", "3", '{"output": "out.csv"}', '{"output": "x", "sta'):
        (tmp_path / "record.jsonl").write_text(text, encoding="utf-8")
        record = PairRecord(tmp_path / "record.jsonl", {})
        assert not record.is_done(pair)
    record.add(pair)
    assert PairRecord(tmp_path / "record.jsonl", {}).is_done(pair)


def test_each_pair_adds_a_line_and_the_last_one_about_it_counts(pair: ScanPair, tmp_path: Path) -> None:
    record = PairRecord(tmp_path / "record.jsonl", {})
    sizes = []
    for number in range(4):
        record.add(replace(pair, output=tmp_path / f"out{number}.csv"))
        sizes.append((tmp_path / "record.jsonl").stat().st_size)
    assert {later - earlier for earlier, later in pairwise(sizes)} == {sizes[0]}
    record.add(pair)
    PairRecord(tmp_path / "record.jsonl", {"mode": "mutual"}).add(pair)
    assert not PairRecord(tmp_path / "record.jsonl", {}).is_done(pair)
    assert PairRecord(tmp_path / "record.jsonl", {"mode": "mutual"}).is_done(pair)


def test_a_pair_whose_input_is_missing_is_told(pair: ScanPair, tmp_path: Path) -> None:
    pair.moving.unlink()
    with pytest.raises(InputError, match=r"b\.nii: no such file"):
        PairRecord(tmp_path / "record.jsonl", {}).is_done(pair)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("found.csv", "point,x_ras_mm,y_ras_mm,z_ras_mm,diameter_mm\n"),
        ("found.fcsv", "# Markups fiducial file version = 4.13\n# CoordinateSystem = LPS\n"),
        ("found.mrk.json", '{"markups": [{"type": "Fiducial", "controlPoints": []}]}'),
    ],
)
def test_a_list_without_lesions_is_a_result_at_follow_up_and_a_mistake_at_baseline(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert len(read_lesions(tmp_path / name, may_be_empty=True)) == 0
    with pytest.raises(InputError, match="there is no point in it"):
        read_lesions(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "told"), [("a,1,2,3,-4", "diameter_mm of 'a' must not be negative"), ("a,1,2,3,wide", "finite number")]
)
def test_diameters_that_are_none_are_refused(tmp_path: Path, row: str, told: str) -> None:
    path = tmp_path / "lesions.csv"
    path.write_text(f"point,x_ras_mm,y_ras_mm,z_ras_mm,diameter_mm\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match=told):
        read_lesions(path)


def tracked() -> list:
    baseline = lesions([[0, 0, 0], [50, 0, 0], [0, 50, 0]], diameters=[10.0, 20.0, float("nan")])
    listed = lesions([[1, 0, 0], [50, 0, 1], [0, 0, 90]], names="xyz", diameters=[15.0, 15.0, 3.0])
    return track_lesions(baseline, matched([[1, 2, 2], [50, 0, 0], [0, 50, 0]]), listed, matched([[0, 0, 0]] * 3))


def test_the_table_of_lesions_has_a_row_for_each_in_each_follow_up(tmp_path: Path) -> None:
    write_lesion_table(tmp_path / "lesions.csv", ["b.nii", "c.nii"], [tracked(), tracked()[:1]], "LPS", "a try")
    with open(tmp_path / "lesions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["followup"], row["lesion"], row["status"], row["listed_as"]) for row in rows] == [
        ("b.nii", "a", "matched", "x"),
        ("b.nii", "b", "matched", "y"),
        ("b.nii", "c", "lost", ""),
        ("b.nii", "", "new", "z"),
        ("c.nii", "a", "matched", "x"),
    ]
    first, lost = rows[0], rows[2]
    assert [first[f"followup_{axis}_lps_mm"] for axis in "xyz"] == ["-1.0", "-2.0", "2.0"]
    assert (first["distance_mm"], first["change_mm"], first["change_percent"]) == ("2.828", "5.0", "50.0")
    assert (lost["listed_x_lps_mm"], lost["distance_mm"], lost["reason"]) == ("", "", "a try")


def test_json_counts_and_adds_up_what_can_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "lesions.json"
    write_lesion_json(path, {"scan": "a.nii"}, [{"scan": "b.nii"}], [tracked()], "RAS", {"mode": "nn"}, "a try")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["format"], content["version"], content["space"], content["note"]) == (
        "monai_ext lesion tracking",
        1,
        "RAS",
        "a try",
    )
    (later,) = content["followups"]
    assert later["counts"] == {"found": 0, "matched": 2, "uncertain": 0, "lost": 1, "new": 1}
    assert later["diameters"] == {
        "lesions": 2,
        "baseline_mm": 30.0,
        "followup_mm": 30.0,
        "change_mm": 0.0,
        "change_percent": 0.0,
    }
    assert later["lesions"][0]["followup"] == [1.0, 2.0, 2.0]
    assert later["lesions"][3]["lesion"] is None


def test_lesions_of_unknown_size_are_not_added_up() -> None:
    assert sum_of_diameters(tracked()[2:])["lesions"] == 0
