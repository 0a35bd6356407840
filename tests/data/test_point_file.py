# SPDX-License-Identifier: Apache-2.0
"""Point files: what one program writes another reads, and what is wrong is named with its row."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from monai_ext.data import PointList, read_point_pairs, read_points, write_points
from monai_ext.errors import InputError

PAGE = (Path(__file__).parents[2] / "docs" / "point_files.md").read_text(encoding="utf-8")
FCSV = (
    "# Markups fiducial file version = 4.11\n# CoordinateSystem = {space}\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
)


def points(**extra: tuple[str, ...]) -> PointList:
    """Three points whose coordinates need all digits of a double, with names that a CSV file must quote."""
    rows = [[0.1, -2 / 3, 1e-17], [-123.456789012345678, 0.0, 9.0], [1e5 / 3, 2.0, -0.3]]
    places = torch.tensor(rows, dtype=torch.float64)
    return PointList(("left, upper", 'the "big" one', "Läsion 3"), places, extra)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("space", ["RAS", "LPS"])
@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json", ".json", ".CSV"])
def test_points_come_back_bit_for_bit(suffix: str, space: str, tmp_path: Path) -> None:
    original = points(description=("", "seen twice, at least", ""))
    write_points(tmp_path / f"points{suffix}", original, space=space)
    again = read_points(tmp_path / f"points{suffix}")
    assert (again.names, again.path) == (original.names, tmp_path / f"points{suffix}")
    assert again.points.dtype is torch.float64
    assert torch.equal(again.points, original.points)
    assert again.extra == original.extra
    assert [path.name for path in tmp_path.iterdir()] == [f"points{suffix}"]


@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
def test_the_two_spaces_differ_in_the_signs_of_x_and_y(suffix: str, tmp_path: Path) -> None:
    one = PointList(("a",), torch.tensor([[1.5, 2.5, 3.5]]))
    for space, numbers in (("RAS", (1.5, 2.5, 3.5)), ("LPS", (-1.5, -2.5, 3.5))):
        write_points(tmp_path / f"a{suffix}", one, space=space)
        text = (tmp_path / f"a{suffix}").read_text(encoding="utf-8")
        found = re.findall(r"-?\d+\.5", text.replace("1.0.3", ""))
        assert tuple(map(float, found)) == numbers
        assert space.lower() in text.lower()


def test_a_table_keeps_all_its_columns_and_gives_numbers(tmp_path: Path) -> None:
    write_points(tmp_path / "lesions.csv", points(diameter_mm=("12.5", "", " 8 "), organ=("liver", "", "lung")))
    lesions = read_points(tmp_path / "lesions.csv")
    assert lesions.extra["organ"] == ("liver", "", "lung")
    torch.testing.assert_close(
        lesions.numbers("diameter_mm"), torch.tensor([12.5, torch.nan, 8.0]).double(), equal_nan=True
    )
    with pytest.raises(InputError, match=r"lesions\.csv: point 1 \('left, upper'\): organ must be a finite number"):
        lesions.numbers("organ")
    with pytest.raises(InputError, match=r"no column 'radius_mm' \(found: diameter_mm, organ\)"):
        lesions.numbers("radius_mm")


def test_formats_without_columns_say_what_they_leave_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_points(tmp_path / "a.fcsv", points(diameter_mm=("1", "2", "3")))
    assert "no room for diameter_mm" in caplog.text
    assert read_points(tmp_path / "a.fcsv").extra == {}


@pytest.mark.parametrize("name", ["point", "name", "label", "id", "Label"])
def test_the_name_may_be_in_any_of_four_columns(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"x_ras_mm,{name} ,y_ras_mm,z_ras_mm\n1,17,2,3\n\n4,b,5,6\n")
    assert read_points(path).names == ("17", "b")
    assert read_points(path).points.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_plain_columns_need_a_space(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "point,x,y,z\na,1,2,3\n")
    assert read_points(path, space="RAS").points.tolist() == [[1, 2, 3]]
    assert read_points(path, space="lps").points.tolist() == [[-1, -2, 3]]
    with pytest.raises(InputError, match=r"a\.csv: says nowhere whether its points are RAS or LPS; name its columns"):
        read_points(path)


def test_a_file_that_states_its_space_is_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "point,x_lps_mm,y_lps_mm,z_lps_mm\na,1,2,3\n")
    assert read_points(path, space="LPS").points.tolist() == [[-1, -2, 3]]
    with pytest.raises(InputError, match="its points are LPS, not RAS"):
        read_points(path, space="RAS")


def test_of_a_table_in_both_spaces_one_is_chosen(tmp_path: Path) -> None:
    header = "point,x_ras_mm,y_ras_mm,z_ras_mm,x_lps_mm,y_lps_mm,z_lps_mm"
    path = write(tmp_path / "a.csv", f"{header}\na,1,2,3,-1,-2,3\n")
    for space in ("RAS", "LPS"):
        assert read_points(path, space).points.tolist() == [[1, 2, 3]]
        assert read_points(path, space).extra == {}
    with pytest.raises(InputError, match="in RAS and in LPS; state which"):
        read_points(path)


def test_points_of_a_picture_have_two_axes_in_tables_alone(tmp_path: Path) -> None:
    flat = PointList(("a", "b"), torch.tensor([[1.0, 2.0], [3.0, 4.5]]))
    write_points(tmp_path / "a.csv", flat, space="LPS")
    assert torch.equal(read_points(tmp_path / "a.csv").points, flat.points)
    with pytest.raises(InputError, match=r"three axes, got 2; write a \.csv"):
        write_points(tmp_path / "a.fcsv", flat)


def test_a_table_from_excel_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffpoint,x_ras_mm,y_ras_mm,z_ras_mm\r\na,1,2,3\r\n".encode())
    assert read_points(tmp_path / "a.csv").points.tolist() == [[1, 2, 3]]


RAS = "point,x_ras_mm,y_ras_mm,z_ras_mm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; give it a header"),
        (f"{RAS}\n", "there is no point in it"),
        (f"{RAS}\na,1,2\n", "line 2 has 3 fields, the header 4"),
        (f"{RAS}\na,1,2,3\n\nb,1,two,3\n", r"line 4 \('b'\) must have finite numbers .* got 'two'"),
        (f"{RAS}\na,1,2,nan\n", r"line 2 \('a'\) must have finite numbers .* got 'nan'"),
        (f"{RAS}\na,1,2,\n", r"line 2 \('a'\) must have finite numbers .* got ''"),
        (f"{RAS}\na,1,2,1e999\n", "got '1e999'"),
        (f"{RAS}\na,1,2,3\nb,1,2,3\na,4,5,6\n", "line 2 and line 4 are both named 'a'; rename one"),
        (f"{RAS}\n,1,2,3\n", "line 2 has no name"),
        (f'{RAS}\n"a"b,1,2,3\n', "line 2 is no CSV"),
        ("x_ras_mm,y_ras_mm,z_ras_mm\n1,2,3\n", "no column 'point'"),
        ("point,x_ras_mm,z_ras_mm\na,1,2\n", r"no columns x_ras_mm, y_ras_mm, z_ras_mm \(or with lps\) in its header"),
        ("point,x_ras_cm,y_ras_cm,z_ras_cm\na,1,2,3\n", "no columns x_ras_mm"),
        (f"{RAS},organ,Organ\na,1,2,3,b,c\n", "a name of its own.* rename 'organ'"),
        ("point;x_ras_mm;y_ras_mm;z_ras_mm\na;1;2;3\n", "not separated by commas"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(InputError, match=rf"bad\.csv: .*{message}") as error:
        read_points(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "scan.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
    for name in ("none.csv", "none.fcsv", "none.mrk.json", "scan.csv"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read .*; check the path"):
            read_points(tmp_path / name)
    for act in (read_points, lambda path: write_points(path, points())):
        with pytest.raises(InputError, match=r"points\.xlsx: points are in \.csv, \.fcsv, \.mrk\.json files"):
            act(tmp_path / "points.xlsx")
    with pytest.raises(InputError, match="space must be one of RAS, LPS, got 'MNI'"):
        write_points(tmp_path / "a.csv", points(), space="MNI")
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(("code", "x"), [("LPS", -1), ("1", -1), ("RAS", 1), ("0", 1)])
def test_a_point_list_of_slicer_states_its_space_by_name_or_number(code: str, x: int, tmp_path: Path) -> None:
    row = "vtkMRMLMarkupsFiducialNode_0,1,2,3,0.000,0.000,0.000,1.000,1,1,0,F-1,,vtkMRMLScalarVolumeNode1\n"
    read = read_points(write(tmp_path / "a.fcsv", FCSV.format(space=code) + row))
    assert (read.names, read.points.tolist(), read.extra) == (("F-1",), [[x, 2 * x, 3]], {})


def test_a_list_of_slicer_5_leaves_out_what_was_not_placed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "1,1,2,3,0,0,0,1,1,1,0,F-1,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,F-2,,,0,0\n3,4,5,6,0,0,0,1,1,1,0,,,,2,0\n"
    read = read_points(write(tmp_path / "a.fcsv", FCSV.format(space="RAS") + rows))
    assert read.names == ("F-1", "3")  # the second was not placed, the third has an id for a name
    assert "without a position are left out: F-2" in caplog.text


def test_a_list_of_slicer_3_has_the_label_first_and_no_space(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fcsv", "tip,1,2,3,1,1\n")
    assert read_points(path, space="RAS").names == ("tip",)
    with pytest.raises(InputError, match=r"add the line '# CoordinateSystem = LPS' \(or RAS\)"):
        read_points(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FCSV.format(space="IJK") + "1,1,2,3\n", "CoordinateSystem must be LPS or RAS .* got 'IJK'"),
        (FCSV.format(space="LPS") + "1,1,2\n", "line 4 must begin with id,x,y,z"),
        (FCSV.format(space="LPS") + "1,1,2,x\n", r"line 4 \('1'\) must have finite numbers"),
        (FCSV.format(space="LPS"), "there is no point in it"),
    ],
)
def test_what_is_wrong_with_a_list_of_slicer_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.fcsv", text)
    with pytest.raises(InputError, match=rf"bad\.fcsv: .*{message}"):
        read_points(path)


def test_a_line_break_in_a_name_does_not_break_the_list(tmp_path: Path) -> None:
    broken = PointList(("a\nb",), torch.zeros(1, 3))
    with pytest.raises(InputError, match="has a line break"):
        write_points(tmp_path / "a.fcsv", broken)
    for suffix in (".csv", ".mrk.json"):
        write_points(tmp_path / f"a{suffix}", broken)
        assert read_points(tmp_path / f"a{suffix}").names == ("a\nb",)


def markups(**changed: object) -> dict[str, object]:
    point = {"id": "1", "label": "F-1", "position": [1.0, 2.0, 3.0]}
    return {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [point], **changed}


def write_markups(path: Path, *lists: dict[str, object]) -> Path:
    return write(path, json.dumps({"@schema": "markups-schema-v1.0.0.json#", "markups": list(lists)}))


def test_a_list_of_markups_has_the_fields_of_its_schema(tmp_path: Path) -> None:
    write_points(tmp_path / "a.mrk.json", points(), space="LPS")
    content = json.loads((tmp_path / "a.mrk.json").read_text(encoding="utf-8"))
    assert content["@schema"].endswith("/markups-schema-v1.0.3.json#")
    (markup,) = content["markups"]
    assert {key: markup[key] for key in ("type", "coordinateSystem", "coordinateUnits")} == {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
    }
    assert set(markup["controlPoints"][0]) == {
        "id", "label", "description", "associatedNodeID", "position", "orientation", "selected", "locked", "visibility",
        "positionStatus",
    }  # fmt: skip
    assert len({point["id"] for point in markup["controlPoints"]}) == 3


def test_markups_that_were_not_placed_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unset = {"id": "2", "label": "F-2", "position": "", "positionStatus": "undefined"}
    placed = {"id": "3", "position": [4, 5, 6], "positionStatus": "defined", "description": "new"}
    first = {"label": "F-1", "position": [1, 2, 3]}
    path = write_markups(tmp_path / "a.mrk.json", {"type": "Line"}, markups(controlPoints=[first, unset, placed]))
    with pytest.raises(InputError, match="its points are LPS, not RAS"):
        read_points(path, space="RAS")
    read = read_points(path)
    assert (read.names, read.points.tolist()) == (("F-1", "3"), [[-1, -2, 3], [-4, -5, 6]])
    assert read.extra == {"description": ("", "new")}
    assert "without a position are left out: F-2" in caplog.text


def test_markups_that_do_not_say_are_lps_by_their_schema(tmp_path: Path) -> None:
    silent = {key: value for key, value in markups().items() if key != "coordinateSystem"}
    path = write_markups(tmp_path / "a.json", silent)
    assert read_points(path).points.tolist() == [[-1, -2, 3]]
    assert read_points(path, space="RAS").points.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("markup", "message"),
    [
        (markups(type="Curve"), "one list of type 'Fiducial', got Curve"),
        (markups(coordinateSystem="IJK"), "coordinateSystem must be LPS or RAS, got 'IJK'"),
        (markups(coordinateUnits="um"), "coordinateUnits must be mm, got 'um'"),
        (markups(controlPoints={}), "controlPoints must be a list"),
        (markups(controlPoints=[]), "there is no point in it"),
        (markups(controlPoints=[{"label": "a", "position": [1, 2]}]), r"control point 1 \('a'\) must have a position"),
        (markups(controlPoints=[{"label": "a", "position": [1, True, 2]}]), "must have finite numbers .* got True"),
        (markups(controlPoints=[{"label": "a", "position": [1, 2, None]}]), "must have finite numbers .* got None"),
        (
            markups(controlPoints=[{"label": "a", "position": [1, 2, 3]}] * 2),
            "control point 1 and control point 2 are both named 'a'",
        ),
    ],
)
def test_what_is_wrong_with_markups_is_named(markup: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"bad\.mrk\.json: .*{message}"):
        read_points(write_markups(tmp_path / "bad.mrk.json", markup))


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON"), ("[]", "has no list 'markups'")])
def test_other_json_is_no_point_list(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_points(write(tmp_path / "a.json", text))
    with pytest.raises(InputError, match="got Fiducial, Fiducial; save one point list alone"):
        read_points(write_markups(tmp_path / "two.json", markups(), markups()))


PAIR = ",".join(f"{scan}_{axis}_ras_mm" for scan in ("baseline", "followup") for axis in "xyz")


def test_pairs_share_their_names_and_have_their_own_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", f"point,{PAIR},followup_radius_mm,organ\n1,1,2,3,4,5,6,7.5,liver\n2,0,0,0,1,1,1,,\n"
    )
    baseline, followup = read_point_pairs(path)
    assert baseline.names == followup.names == ("1", "2")
    assert (baseline.points[0].tolist(), followup.points[0].tolist()) == ([1, 2, 3], [4, 5, 6])
    assert baseline.extra == {"organ": ("liver", "")}
    assert followup.extra == {"radius_mm": ("7.5", ""), "organ": ("liver", "")}
    swapped = read_point_pairs(path, first="followup", second="baseline")
    assert torch.equal(swapped[1].points, baseline.points)


def test_pairs_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"point,{PAIR},radius_mm,followup_radius_mm\n1,1,2,3,4,5,6,7,7\n")
    with pytest.raises(InputError, match="columns 'radius_mm' and 'followup_radius_mm' are the same"):
        read_point_pairs(path)
    with pytest.raises(InputError, match="no columns month6_x_ras_mm, month6_y_ras_mm, month6_z_ras_mm"):
        read_point_pairs(path, second="month6")
    with pytest.raises(InputError, match=r"pairs of points are read from \.csv alone; give a file for each scan"):
        read_point_pairs(tmp_path / "a.fcsv")


@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
def test_a_write_that_fails_at_its_end_leaves_the_old_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*paths: Path) -> None:
        raise OSError("No space left on device")

    write_points(tmp_path / f"a{suffix}", points())
    before = (tmp_path / f"a{suffix}").read_bytes()
    monkeypatch.setattr("monai_ext.files.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_points(tmp_path / f"a{suffix}", PointList(("new",), torch.ones(1, 3)))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(f"a{suffix}", before)]


@pytest.mark.parametrize(
    ("names", "places", "extra", "message"),
    [
        (("a",), torch.zeros(1, 4), {}, r"must be \(N, 2\) or \(N, 3\), got \(1, 4\)"),
        (("a",), torch.zeros(2, 3), {}, r"2 entries.* got \{'names': 1\}"),
        (("a",), torch.zeros(1, 3), {"b": ()}, r"got \{'b': 0\}"),
        (("a", "a"), torch.zeros(2, 3), {}, "each name must be there once"),
        (("a",), torch.full((1, 3), torch.nan), {}, "must be finite"),
    ],
)
def test_a_list_that_cannot_be_is_refused(names: tuple, places: torch.Tensor, extra: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PointList(names, places, extra)


def test_a_column_that_would_hide_a_coordinate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="further columns must have other names"):
        write_points(tmp_path / "a.csv", points(X_ras_mm=("1", "2", "3")))


def test_the_pages_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (table,) = re.findall(r"```csv\n(.*?)```", PAGE, flags=re.DOTALL)
    write(tmp_path / "lesions.csv", table)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert read_points("lesions.mrk.json").names == read_points("lesions.csv").names
