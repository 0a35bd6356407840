# SPDX-License-Identifier: Apache-2.0
"""The page of linked views as text: the place is in the middle of each picture, and nothing that was read is code."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.report.linked_page import linked_page
from monai_ext.report.paint import read_window
from monai_ext.report.point_views import point_views
from monai_ext.report.scans import PLANES, read_scan
from tests.report.linked_example import PLACES, linked_scans, oblique, write_scan
from tests.report.test_page import EVIL, Elements

HOW = {"weights": "model.pt", "mode": "nn"}


def pixels_of(address: object) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(str(address).split(",", 1)[1]))).convert("L"))


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="linked-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def page(folder: Path, **settings: object) -> str:
    return linked_page("Tracked lesions", "What became of them.", [linked_scans(folder)], "track", HOW, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL", "AIR", "PLI"])
@pytest.mark.parametrize("angle", [0.0, 0.3, -0.25])
def test_the_place_is_in_the_middle_of_every_picture(codes: str, angle: float, tmp_path: Path) -> None:
    worlds = write_scan(tmp_path / "scan.nii.gz", oblique(angle, (1.0, 1.5, 2.5), 4.0), codes)
    scan = read_scan(tmp_path / "scan.nii.gz")
    for world in worlds:
        for plane, view in point_views(scan, world, (0.0, 1000.0), 40.0, 81).items():  # type: ignore[arg-type]
            grey = pixels_of(view["src"])
            rows, columns = np.nonzero(grey > 128)
            assert grey.shape == (81, 81)
            assert [rows.mean(), columns.mean()] == pytest.approx([40, 40], abs=1.0), (plane, world)


def test_slices_are_named_by_their_number_in_the_file_and_letters_tell_the_patient_s_sides(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    write_scan(tmp_path / "scan.nii.gz", affine, "RAS")
    x, y, z = PLACES[0]
    views = point_views(read_scan(tmp_path / "scan.nii.gz"), (x, y, 2.0 * z), (0.0, 1000.0), 40.0, 64)  # type: ignore[arg-type]
    assert [views[plane]["caption"] for plane in PLANES] == [
        "slice 9 of 18, z = 16.0 mm",
        "slice 13 of 36, y = 12.0 mm",
        "slice 11 of 32, x = 10.0 mm",
    ]
    assert ["".join(views[plane]["edges"]) for plane in PLANES] == ["RLAP", "RLSI", "APSI"]  # type: ignore[arg-type]


def test_a_place_outside_of_the_scan_is_black_and_says_so(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan.nii.gz", np.eye(4))
    views = point_views(read_scan(tmp_path / "scan.nii.gz"), (500.0, 10.0, -90.0), (0.0, 50.0), 40.0, 64)  # type: ignore[arg-type]
    assert views["axial"]["caption"] == "slice 1 of 18, z = 0.0 mm, the place lies outside of the scan"
    assert "outside" not in str(views["coronal"]["caption"])
    assert pixels_of(views["axial"]["src"]).max() == 0


def test_the_page_is_closed_loads_nothing_and_every_picture_has_a_text(tmp_path: Path) -> None:
    html = page(tmp_path)
    elements = Elements(html)
    assert elements.open == []
    assert all(image["alt"] for image in elements.named("img"))
    assert all(str(image["src"]).startswith("data:") for image in elements.named("img"))
    assert re.search(r"https?://", re.sub(r"http://www\.w3\.org/\S+", "", html)) is None
    first, last = data_of(html)["points"][0], data_of(html)["points"][2]
    assert first["views"][0]["axial"]["alt"].startswith("baseline, one: axial slice ")
    assert last["views"][1] is None
    assert last["placed"] == [True, False]


def test_numbers_of_all_points_are_in_a_table(tmp_path: Path) -> None:
    html = page(tmp_path)
    for text in ("0.012", "0.112", "0.212", "uncertain", "model.pt"):
        assert f">{text}<" in html


def test_names_that_are_html_stay_text(tmp_path: Path) -> None:
    scans = linked_scans(tmp_path, names=(EVIL, "</script><b>", "@@script@@"), title=EVIL)
    html = linked_page(EVIL, EVIL, [scans, scans], EVIL, {EVIL: EVIL}, [EVIL])
    assert Elements(html).open == []
    assert "<script>window.owned" not in html
    assert "<img src=x" not in html
    assert len(re.findall(r"<script>", html)) == 1
    assert data_of(html)["points"][0]["name"] == EVIL


def test_what_does_not_fit_is_left_out_with_a_line_that_says_so(tmp_path: Path) -> None:
    whole = page(tmp_path)
    one = sum(len(view["src"]) for side in data_of(whole)["points"][0]["views"] for view in side.values())
    html = page(tmp_path, budget=one)
    assert "Pictures of 1 of 3 points; those of the others would make this file larger than" in html
    assert [point["views"] for point in data_of(html)["points"][1:]] == [[None, None]] * 2
    assert ">0.212<" in html
    assert "left out. All numbers" not in whole


def test_the_window_is_that_of_the_scan_or_the_one_that_was_asked_for(tmp_path: Path) -> None:
    assert "baseline: intensities 0 to " in page(tmp_path)
    html = page(tmp_path, window=read_window("-10,2000"))
    assert "baseline: intensities -10 to 2000 are black to white." in html
    bright = pixels_of(data_of(html)["points"][0]["views"][0]["axial"]["src"])
    assert bright[128, 128] == pytest.approx(255 * 1010 / 2010, abs=12)


@pytest.mark.parametrize("text", ["", "1", "2,1", "1,2,3", "a,b", "nan,1"])
def test_a_window_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="window must be two numbers, the lower first"):
        read_window(text)


def test_pictures_are_refused_with_a_remedy(tmp_path: Path) -> None:
    scans = linked_scans(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "flat.png")
    flat = type(scans)(scans.titles, (tmp_path / "flat.png", scans.scans[1]), scans.points)
    with pytest.raises(InputError, match=r"flat\.png: is a picture, linked views are of volumes"):
        linked_page("a", "b", [flat], "match", {})


def test_a_list_without_points_is_a_page_all_the_same(tmp_path: Path) -> None:
    scans = linked_scans(tmp_path)
    html = linked_page("a", "b", [type(scans)(scans.titles, scans.scans, [])], "match", {})
    assert Elements(html).open == []
    assert "There are no points." in html
