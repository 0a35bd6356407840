# SPDX-License-Identifier: Apache-2.0
"""Colours, overlays, sheets of slices, and which cases are shown."""

from __future__ import annotations

import base64
import io
import re
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_ext.report.cases import ScoredCase, best_median_worst, class_names, group_cases
from monai_ext.report.loaded import load_case
from monai_ext.report.paint import blend, class_palette, display_size, error_map, palette_address, to_bytes
from monai_ext.report.palette import ERROR_COLOURS, class_colour
from monai_ext.report.slices import size_of, volume_view


def decode(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1])))


def write_case(folder: Path, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> ScoredCase:
    paths = {name: folder / f"{name}.nii" for name in ("image", "label", "prediction")}
    for path, voxels in zip(paths.values(), (image, label, prediction), strict=True):
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return ScoredCase("case", paths, [], 0.5)


def test_window_maps_to_black_and_white() -> None:
    frame = np.array([-5.0, 0.0, 50.0, 100.0, 900.0, np.nan, np.inf])
    assert to_bytes(frame, (0.0, 100.0)).tolist() == [0, 0, 128, 255, 255, 0, 255]


def test_display_is_square_in_mm_and_limited() -> None:
    assert display_size((10, 40), (40.0, 30.0), 200) == (40, 30)  # thick rows become taller
    assert display_size((400, 400), (400.0, 200.0), 100) == (100, 50)


def test_error_map_tells_missed_extra_and_wrong() -> None:
    assert error_map(np.array([0, 1, 0, 2, 2]), np.array([0, 0, 1, 1, 2])).tolist() == [0, 1, 2, 3, 0]


def test_blend_leaves_background_untouched() -> None:
    grey = np.array([[10, 200]], np.uint8)
    painted = blend(grey, np.array([[0, 1]], np.uint8), class_palette(), 1.0)
    assert painted.tolist() == [[[10, 10, 10], list(class_colour(1))]]


def test_overlay_is_clear_where_there_is_no_label() -> None:
    labels = np.array([[0, 2]], np.uint8)
    pixels = decode(palette_address(labels, class_palette())).convert("RGBA")
    assert pixels.getpixel((0, 0))[3] == 0
    assert pixels.getpixel((1, 0)) == (*class_colour(2), 255)


def test_sheet_holds_each_slice_in_its_field(tmp_path: Path) -> None:
    truth = np.zeros((6, 8, 5), np.uint8)
    truth[1, 2, 3] = 1  # one voxel: column and row count from the patient's right and front
    case = write_case(tmp_path, truth.astype(np.int16), truth, truth * 0)
    view = volume_view(load_case(case), "axial", "title", 10**6)
    assert view is not None
    sheet = np.asarray(decode(str(view["truth"])))
    width, height, columns = (int(str(view[key])) for key in ("width", "height", "columns"))
    row, column = (int(place[0]) for place in np.nonzero(sheet))
    assert sheet.sum() == 1
    assert (row, column) == (3 // columns * height + (8 - 1 - 2), 3 % columns * width + (6 - 1 - 1))
    assert view["profile"] == [0.0, 0.0, 0.0, 1.0, 0.0]


def test_view_shrinks_to_its_budget(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (150, 150, 12)).astype(np.uint8)
    loaded = load_case(write_case(tmp_path, noise, noise % 3, noise % 2))
    large = volume_view(loaded, "axial", "large", 10**8)
    small = volume_view(loaded, "axial", "small", size_of(large or {}) // 2)
    assert small is not None
    assert size_of(small) <= size_of(large or {}) // 2
    assert volume_view(loaded, "axial", "none", 100) is None


def test_mask_of_0_and_255_is_class_1(tmp_path: Path) -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1] = 255
    loaded = load_case(write_case(tmp_path, mask, mask, mask))
    assert np.unique(loaded.labels["truth"].frame("axial", 0)).tolist() == [0, 1]


def test_label_of_another_grid_becomes_a_note(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 6), np.int16)
    loaded = load_case(write_case(tmp_path, image, np.zeros((4, 5, 7), np.uint8), image))
    assert list(loaded.labels) == ["prediction"]
    assert loaded.notes == ["There is no truth: its grid (4, 5, 7) is not the image's (4, 5, 6)."]


def test_image_without_contrast_or_numbers_is_shown_black(tmp_path: Path) -> None:
    empty = np.full((4, 4, 4), np.nan, np.float32)
    loaded = load_case(write_case(tmp_path, empty, np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)))
    assert to_bytes(loaded.image.frame("axial", 0), loaded.window).max() == 0


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [
        ([0.5], [("only", "0")]),
        ([0.5, 0.7], [("best", "1"), ("worst", "0")]),
        ([0.5, 0.9, 0.7], [("best", "1"), ("median", "2"), ("worst", "0")]),
        ([None, 0.7], [("only", "1")]),
        ([None, None], [("first", "0")]),
        ([], []),
    ],
)
def test_best_median_and_worst(scores: list[float | None], ranks: list[tuple[str, str]]) -> None:
    cases = [ScoredCase(str(number), {}, [], score) for number, score in enumerate(scores)]
    assert [(rank, case.name) for rank, case in best_median_worst(cases)] == ranks


def test_cases_are_put_together_from_their_rows() -> None:
    rows = [
        {"case": "a", "class": "2", "class_name": "two", "dice": "0.5", "image": "a.nii"},
        {"case": "a", "class": "1", "dice": "nan", "image": "a.nii"},
        {"case": "b", "class": "2", "class_name": "two"},
    ]
    first, second = group_cases(rows)
    assert (first.name, first.dice, first.files) == ("a", 0.5, {"image": Path("a.nii")})
    assert second.dice is None
    assert class_names(rows) == {1: "class 1", 2: "two"}


# Linear-light matrices of full protanopia, deuteranopia and tritanopia (Machado, Oliveira, Fernandes 2009)
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(colour: tuple[int, int, int]) -> np.ndarray:
    value = np.asarray(colour) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        light, 0, 1
    )
    root = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(
    "colours", [[class_colour(index) for index in range(1, 6)], ERROR_COLOURS], ids=["classes", "errors"]
)
def test_colours_stay_apart_in_every_vision(vision: str, colours: list[tuple[int, int, int]]) -> None:
    seen = [lab(VISIONS[vision] @ linear(colour)) for colour in colours]
    assert min(np.linalg.norm(first - second) for first, second in combinations(seen, 2)) > 12


@pytest.mark.parametrize("theme", ["base.css", "dark.css"])
@pytest.mark.parametrize("name", ["ink", "muted", "accent", "good", "bad", "open"])
@pytest.mark.parametrize("ground", ["page", "sheet", "soft", "warn"])
def test_text_has_contrast(theme: str, name: str, ground: str) -> None:
    text = (files("monai_ext.report") / "templates" / theme).read_text(encoding="utf-8")
    found = {key: tuple(bytes.fromhex(value)) for key, value in re.findall(r"--(\w+): #(\w{6})", text)}
    weights = np.array([0.2126, 0.7152, 0.0722])
    first, second = (float(weights @ linear(found[key])) for key in (name, ground))  # type: ignore[arg-type]
    assert (max(first, second) + 0.05) / (min(first, second) + 0.05) >= 4.5
