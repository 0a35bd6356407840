# SPDX-License-Identifier: Apache-2.0
"""The command match: known places found in any grid, many pairs in one go, and nothing lost when one is broken."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ext.commands._fire import main
from monai_ext.data.point_file import read_point_pairs, read_points
from tests.followup.toy_bundle import grid, places, world, write_bundle, write_points, write_scan
from tests.report.test_page import Elements

FIXED, MOVING = grid(turn=-8, shift=(4, 2, -30)), grid(turn=15, shift=(-20, 9, 11))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with two scans of one thing in oblique grids, stored with their axes in different orders, and points."""
    write_scan(tmp_path / "a.nii.gz", FIXED, codes="LPS")
    write_scan(tmp_path / "b.nii.gz", MOVING, codes="SAR")
    write_points(tmp_path / "points.csv", world(FIXED, places(4)))
    return tmp_path


def run(bundle: Path, folder: Path, *words: str, output: str = "out.csv", points: str = "points.csv") -> int:
    files = {"fixed": "a.nii.gz", "moving": "b.nii.gz", "points": points, "output": output}
    given = [word for name, file in files.items() for word in (f"--{name}", str(folder / file))]
    return main(["match", *given, "--bundle_root", str(bundle), *words])


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mode", ["nn", "mutual", "fixed_point"])
def test_places_are_found_in_oblique_grids(bundle: Path, pair: Path, mode: str, capsys: pytest.CaptureFixture) -> None:
    assert run(bundle, pair, "--mode", mode) == 0
    assert re.search(r"out\.csv: 4 of 4 points accepted, [\d.]+ s", capsys.readouterr().out)
    fixed, moving = read_point_pairs(pair / "out.csv", "fixed", "moving")
    np.testing.assert_allclose(fixed.points, world(FIXED, places(4)), atol=1e-3)
    np.testing.assert_allclose(moving.points, world(MOVING, places(4)), atol=2e-3)
    assert list(rows_of(pair / "out.csv")[0]) == [
        "point",
        *[f"{scan}_{axis}_ras_mm" for scan in ("fixed", "moving") for axis in "xyz"],
        *["score", "local_score", "global_score", "cycle_error_mm", "accepted", "fallback", "anchors", "reason"],
    ]


@pytest.mark.parametrize("output", ["out.csv", "out.fcsv", "out.mrk.json"])
def test_lps_in_and_out_is_the_same_place(bundle: Path, pair: Path, output: str) -> None:
    flipped = world(FIXED, places(4)) * [-1, -1, 1]
    lines = ["point,x,y,z", *(f"p{i},{x},{y},{z}" for i, (x, y, z) in enumerate(flipped.tolist()))]
    (pair / "plain.csv").write_text("\n".join(lines), encoding="utf-8")
    assert run(bundle, pair, "--space", "LPS", points="plain.csv", output=output) == 0
    text = (pair / output).read_text(encoding="utf-8")
    found = read_point_pairs(pair / output, "fixed", "moving")[1] if output == "out.csv" else read_points(pair / output)
    assert "lps" in text or "LPS" in text
    np.testing.assert_allclose(found.points, world(MOVING, places(4)), atol=2e-3)


def test_plain_columns_need_their_space(bundle: Path, pair: Path, capsys: pytest.CaptureFixture) -> None:
    (pair / "plain.csv").write_text("point,x,y,z\na,1,2,3\n", encoding="utf-8")
    assert run(bundle, pair, points="plain.csv") == 1
    assert "says nowhere whether its points are RAS or LPS" in capsys.readouterr().err


def test_the_output_may_be_in_the_other_space(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair, "--output_space", "lps") == 0
    assert "moving_x_lps_mm" in rows_of(pair / "out.csv")[0]


def test_points_of_3d_slicer_go_in(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair, output="first.mrk.json") == 0
    assert run(bundle, pair, "--fixed", str(pair / "b.nii.gz"), points="first.mrk.json", output="back.csv") == 0
    moving = read_point_pairs(pair / "back.csv", "fixed", "moving")[1]
    np.testing.assert_allclose(moving.points, world(MOVING, places(4)), atol=2e-3)


def test_what_was_written_can_be_matched_again(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair) == 0
    assert run(bundle, pair, points="out.csv", output="again.csv") == 0
    assert (pair / "again.csv").read_bytes() == (pair / "out.csv").read_bytes()


def test_what_is_not_accepted_says_why(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair, "--min_score", "1.5") == 0
    assert {(row["accepted"], row["reason"]) for row in rows_of(pair / "out.csv")} == {("0", "score 1.00 below 1.5")}


def test_a_page_is_written_and_names_that_are_html_stay_text(bundle: Path, pair: Path) -> None:
    names = ["<b>liver</b>", "a & b", "</script>", "<img src=x onerror=alert(1)>"]
    write_points(pair / "points.csv", world(FIXED, places(4)), names)
    (pair / "<b>x<").mkdir()
    (pair / "a.nii.gz").rename(pair / "<b>x<" / "<i>a.nii.gz")
    words = ["--fixed", str(pair / "<b>x<" / "<i>a.nii.gz"), "--report", str(pair / "page.html")]
    assert run(bundle, pair, *words) == 0
    html = (pair / "page.html").read_text(encoding="utf-8")
    assert Elements(html).open == []
    assert "<img src=x" not in html
    assert "<i>" not in html
    assert "&lt;b&gt;liver&lt;/b&gt;" in html
    assert len(html) < 1_000_000


def test_the_same_again_is_the_same_file(bundle: Path, pair: Path) -> None:
    assert run(bundle, pair, output="one.csv") == 0
    assert run(bundle, pair, "--embedding_dir", str(pair / "kept"), output="two.csv") == 0
    assert run(bundle, pair, "--embedding_dir", str(pair / "kept"), output="three.csv") == 0
    one, two, three = ((pair / f"{name}.csv").read_bytes() for name in ("one", "two", "three"))
    assert one == two == three
    assert len(list((pair / "kept").glob("*.safetensors"))) == 1  # both scans have the same voxels


def test_without_weights_it_says_what_to_do_and_a_try_says_that_it_is_one(
    tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture
) -> None:
    bare = write_bundle(tmp_path / "bare", weights=False)
    assert run(bare, pair) == 1
    told = capsys.readouterr().err
    assert re.match(r"error: \S+/models/model\.pt: there are no weights of bare; train them on your own scans", told)
    assert "python -m monai_ext convert bare --source FILE" in told
    assert len(told.splitlines()) == 1
    for output in ("out.csv", "out.fcsv", "out.mrk.json"):
        assert run(bare, pair, "--untrained", "True", "--report", str(pair / "page.html"), output=output) == 0
        assert (pair / output).read_text(encoding="utf-8").count("the network is not trained") == 4
    assert "The network is not trained: what this page shows is a try" in (pair / "page.html").read_text(
        encoding="utf-8"
    )
    assert "note: the network is not trained" in capsys.readouterr().out


def test_a_try_is_the_same_every_time(tmp_path: Path, pair: Path) -> None:
    bare = write_bundle(tmp_path / "bare", weights=False)
    for output in ("one.csv", "two.csv"):
        torch.rand(7)  # whatever has been drawn before
        assert run(bare, pair, "--untrained", output=output) == 0
    assert (pair / "one.csv").read_bytes() == (pair / "two.csv").read_bytes()


def test_weights_of_another_network_are_refused(bundle: Path, pair: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(bundle, pair, "--base_channels", "6") == 1
    assert "encoder.stem.conv" in capsys.readouterr().err
    assert run(bundle, pair, "--ckpt_path", str(pair / "none.pt")) == 1
    assert "none.pt: there are no weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--output", "points.csv"], r"points\.csv: would overwrite the input"),
        (["--report", "a.nii.gz"], r"a\.nii\.gz: would overwrite the input"),
        (["--report", "out.csv"], r"out\.csv: would be written twice"),
        (["--output", "out.txt"], r"out\.txt: matched points are written to"),
        (["--window", "5"], "window must be two numbers"),
        (["--space", "MNI"], "space must be one of RAS, LPS"),
        (["--mode", "best"], "mode must be one of nn, mutual, fixed_point"),
        (["--moode", "nn"], r"moode: is no knob of .*did you mean mode"),
        (["--bundle_root", "nobody"], "nobody: no bundle"),
        (["--pairs", "pairs.csv"], "--pairs names scans, points and outputs itself"),
        (["--moving", "c.nii.gz"], r"c\.nii\.gz: no such file"),
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
    before = {path: path.read_bytes() for path in pair.iterdir()}
    assert run(bundle, pair, *words) in (1, 2)
    shown = capsys.readouterr().err
    assert re.search(told, shown)
    assert len(shown.splitlines()) == 1
    assert {path: path.read_bytes() for path in pair.iterdir()} == before


def test_missing_arguments_are_named(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["match", "--fixed", "a.nii", "--points", "p.csv", "--bundle_root", str(bundle)]) == 1
    assert "--moving, --output is missing; or give many pairs by --pairs FILE" in capsys.readouterr().err


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three scans of one thing and one of another, and a list of pairs between them."""
    for name, turn in (("a", -8.0), ("b", 15.0), ("c", 3.0)):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", grid(turn))
    write_points(tmp_path / "points.csv", world(grid(-8.0), places(3)))
    rows = [
        "scans/a.nii.gz,scans/b.nii.gz,points.csv,out/ab.csv",
        "scans/a.nii.gz,scans/c.nii.gz,points.csv,out/ac.csv",
    ]
    write_list(tmp_path, rows)
    return tmp_path


def write_list(folder: Path, rows: list[str], name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(["fixed,moving,points,output", *rows]) + "\n", encoding="utf-8")
    return path


def run_list(bundle: Path, path: Path, *words: str) -> int:
    return main(["match", "--pairs", str(path), "--bundle_root", str(bundle), *words])


def test_a_list_embeds_each_scan_once_and_skips_what_is_done(
    bundle: Path, study: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_list(bundle, study / "pairs.csv") == 0
    shown = capsys.readouterr().out
    assert "2 pairs: 2 matched, 0 skipped, 0 failed" in shown
    assert "scans embedded or read from the disk: 3" in shown
    moving = read_point_pairs(study / "out" / "ac.csv", "fixed", "moving")[1]
    np.testing.assert_allclose(moving.points, world(grid(3.0), places(3)), atol=2e-3)
    before = {path: path.stat().st_mtime_ns for path in (study / "out").iterdir()}
    assert run_list(bundle, study / "pairs.csv") == 0
    assert {path: path.stat().st_mtime_ns for path in (study / "out").iterdir()} == before
    assert "2 pairs: 0 matched, 2 skipped, 0 failed" in capsys.readouterr().out


def test_what_has_changed_is_matched_again_and_nothing_else(
    bundle: Path, study: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_list(bundle, study / "pairs.csv") == 0
    write_scan(study / "scans" / "c.nii.gz", grid(30.0))
    assert run_list(bundle, study / "pairs.csv") == 0
    assert "2 pairs: 1 matched, 1 skipped, 0 failed" in capsys.readouterr().out
    moving = read_point_pairs(study / "out" / "ac.csv", "fixed", "moving")[1]
    np.testing.assert_allclose(moving.points, world(grid(30.0), places(3)), atol=2e-3)
    (study / "out" / "ab.csv").unlink()
    assert run_list(bundle, study / "pairs.csv") == 0
    assert "2 pairs: 1 matched, 1 skipped, 0 failed" in capsys.readouterr().out
    assert run_list(bundle, study / "pairs.csv", "--min_score", "0.5") == 0
    assert "2 pairs: 2 matched, 0 skipped, 0 failed" in capsys.readouterr().out


def test_a_broken_pair_stops_no_other_and_is_named_at_the_end(
    bundle: Path, study: Path, capsys: pytest.CaptureFixture
) -> None:
    (study / "scans" / "cut.nii.gz").write_bytes((study / "scans" / "b.nii.gz").read_bytes()[:500])
    rows = [
        "scans/a.nii.gz,scans/cut.nii.gz,points.csv,out/cut.csv",
        "scans/a.nii.gz,scans/b.nii.gz,points.csv,out/ab.csv",
        "scans/a.nii.gz,scans/none.nii.gz,points.csv,out/none.csv",
        "scans/a.nii.gz,scans/c.nii.gz,points.csv,out/ac.csv",
    ]
    path = write_list(study, rows)
    assert run_list(bundle, path) == 1
    shown = capsys.readouterr()
    assert "4 pairs: 2 matched, 0 skipped, 2 failed" in shown.out
    assert re.search(r"1/4 \S+cut\.csv: FAILED, \S+cut\.nii\.gz: cannot be read", shown.err)
    assert re.search(r"3/4 \S+none\.csv: FAILED, \S+none\.nii\.gz: no such file", shown.err)
    assert re.search(
        r"error: \S+pairs\.csv: these failed, mend them and start again: \S+cut\.csv, \S+none\.csv", shown.err
    )
    assert sorted(file.name for file in (study / "out").iterdir()) == ["ab.csv", "ac.csv"]
    write_scan(study / "scans" / "cut.nii.gz", grid(3.0))
    write_scan(study / "scans" / "none.nii.gz", grid(3.0))
    assert run_list(bundle, path) == 0
    assert "4 pairs: 2 matched, 2 skipped, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("--keep_mb", "0.001"), ("--embedding_dir", "kept")])
def test_the_order_of_the_list_and_the_cache_change_nothing(
    bundle: Path, study: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study)
    assert run_list(bundle, study / "pairs.csv") == 0
    backwards = [
        "scans/a.nii.gz,scans/c.nii.gz,points.csv,back/ac.csv",
        "scans/c.nii.gz,scans/b.nii.gz,points.csv,back/cb.csv",
        "scans/a.nii.gz,scans/b.nii.gz,points.csv,back/ab.csv",
    ]
    assert run_list(bundle, write_list(study, backwards, "back.csv"), *words) == 0
    for name in ("ab.csv", "ac.csv"):
        assert (study / "back" / name).read_bytes() == (study / "out" / name).read_bytes()


def test_a_killed_list_goes_on_where_it_was(
    bundle: Path, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from monai_ext.followup import match_table

    real = match_table.write_matches

    def interrupted(path: Path, *arguments: object, **named: object) -> None:
        if path.name == "ac.csv":
            raise KeyboardInterrupt
        real(path, *arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(match_table, "write_matches", interrupted)
        assert run_list(bundle, study / "pairs.csv") == 130
    assert sorted(file.name for file in (study / "out").iterdir()) == ["ab.csv"]
    assert run_list(bundle, study / "pairs.csv") == 0
    assert "2 pairs: 1 matched, 1 skipped, 0 failed" in capsys.readouterr().out
    record = (study / "pairs.csv.record.jsonl").read_text(encoding="utf-8").split()
    assert sum(word.startswith('{"output"') for word in record) == 2


def test_a_list_may_ask_for_pages(bundle: Path, study: Path) -> None:
    row = "scans/a.nii.gz,scans/b.nii.gz,points.csv,out/<b>.csv,out/<b>.html"
    (study / "pairs.csv").write_text(f"fixed,moving,points,output,report\n{row}\n", encoding="utf-8")
    assert run_list(bundle, study / "pairs.csv") == 0
    assert Elements((study / "out" / "<b>.html").read_text(encoding="utf-8")).open == []
