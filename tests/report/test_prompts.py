# SPDX-License-Identifier: Apache-2.0
"""Records of prompts: what is read, what is refused, and that a box is drawn around what it was given for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.inferers import PromptedSliceInferer
from monai_ext.report.cases import ScoredCase
from monai_ext.report.loaded import LoadedCase, load_case
from monai_ext.report.panels import example
from monai_ext.report.prompt_marks import marks_layer, place_marks
from monai_ext.report.prompt_record import SlicePrompt, parse_prompts, read_prompts
from monai_ext.report.slices import pictures_view, volume_view
from tests.report.test_pictures import decode

PLANES = ("axial", "coronal", "sagittal")
TURNED = np.array([[-0.9, 0.2, 0.1, 5], [0.1, 0.1, 2.0, -7], [0.2, -1.1, 0.1, 3], [0, 0, 0, 1]])  # oblique L, I, A
AFFINES = {"RAS": np.diag([1.0, 1.0, 2.0, 1.0]), "LPS": np.diag([-1.0, -1.0, 2.0, 1.0]), "oblique": TURNED}


def record(*slices: dict[str, object], plane: str = "axial", source: str = "self") -> dict[str, object]:
    return {"case": "case", "plane": plane, "prompt_source": source, "slices": list(slices)}


def parsed(**entry: object) -> SlicePrompt:
    return parse_prompts(json.dumps(record({"index": 0, "prompt": "self", **entry}))).slices[0]


def blob_case(folder: Path, affine: np.ndarray, content: dict[str, object]) -> LoadedCase:
    """A volume whose only bright voxels are a block off its middle, predicted exactly, and a record beside it."""
    voxels = np.zeros((20, 24, 16), np.uint8)
    voxels[4:9, 3:7, 9:12] = 1
    paths = {name: folder / f"{name}.nii.gz" for name in ("image", "label", "prediction")}
    for path in paths.values():
        nib.save(nib.Nifti1Image(voxels, affine), path)
    (folder / "prediction_prompts.json").write_text(json.dumps(content), encoding="utf-8")
    return load_case(ScoredCase("case", paths, [], 1.0))


class BrightBox(torch.nn.Module):
    """Stands for a network that prompts itself: its mask is what is bright, its box goes around that."""

    def segment(self, image: torch.Tensor, **prompts: object) -> SimpleNamespace:
        boxes = torch.full((len(image), 4), torch.nan)
        for box, mask in zip(boxes, image[:, 0] > 0.5, strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            if len(rows):
                box[:] = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])
        names = ["null" if box.isnan().any() else "self" for box in boxes]
        return SimpleNamespace(logits=image[:, :1] - 0.5, boxes=boxes, prompts=names)


def boxes_as_inferred(affine: np.ndarray, plane: str) -> dict[str, object]:
    """The record of the block of `blob_case`, as the inferer leaves it."""
    volume = torch.zeros(1, 20, 24, 16)
    volume[:, 4:9, 3:7, 9:12] = 1
    turned = Orientation("RAS", labels=None)(MetaTensor(volume, affine=torch.as_tensor(affine)))
    return json.loads(PromptedSliceInferer(plane=plane)(turned[None], BrightBox()).meta["prompts"])


def extent(mask: np.ndarray) -> list[float]:
    """The edges of what is set: left, top, right, bottom."""
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def edges(box: Sequence[float]) -> list[float]:
    """The edges of left, top, width, height."""
    left, top, width, height = box
    return [left, top, left + width, top + height]


def rectangles(markup: str) -> list[list[float]]:
    found = re.findall(r'<rect x="([^"]+)" y="([^"]+)" width="([^"]+)" height="([^"]+)" class="dash">', markup)
    return [edges([float(value) for value in numbers]) for numbers in found]


def test_record_is_read() -> None:
    entry = {"index": 3, "prompt": "points", "box": [1, 2, 5.5, 6], "points": [[4, 3, 1], [9, 9, 0], [0, 0, -1]]}
    found = parse_prompts(json.dumps(record(entry, {"index": 4, "prompt": "null", "box": None})))
    assert (found.plane, found.source) == ("axial", "self")
    assert found.slices[3].box == (1, 2, 5.5, 6)
    assert found.slices[3].points == ((4, 3, True), (9, 9, False))  # -1 is padding
    assert found.slices[4].box is None
    assert found.counts() == {"given points and box": 1, "no prompt (first mask empty)": 1}


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("self", "self", "self-prompt box"),
        ("self", "null", "no prompt (first mask empty)"),
        ("null", "null", "no prompt (as asked)"),
        ("self", "box", "given box"),
        ("truth", "box", "true box"),
        ("self", "points", "given points"),
        ("self", "scribble", "scribble"),
    ],
)
def test_prompt_is_named(source: str, kind: str, text: str) -> None:
    content = json.dumps(record({"index": 0, "prompt": kind, "box": None}, source=source))
    assert parse_prompts(content).slices[0].text == text


def test_prompt_is_put_in_words() -> None:
    prompt = parsed(prompt="points", box=[1, 2, 5, 6], points=[[3, 3, 1], [4, 4, 1], [9, 9, 0]])
    assert prompt.in_words() == "given points and box: columns 1 to 5, rows 2 to 6; 2 on the object, 1 off it"
    assert parsed(prompt="null").in_words() == "no prompt (first mask empty)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", "has no list of slices"),
        ('{"slices": {"0": []}}', "has no list of slices"),
        ('{"slices": [{"prompt": "self"}]}', "slices\\[0\\] has no index or no prompt"),
        ('{"slices": [{"index": 0}]}', "slices\\[0\\] has no index or no prompt"),
        ('{"slices": ["self"]}', "has no index or no prompt"),
        ('{"slices": [{"index": -1, "prompt": "self"}]}', "has no index or no prompt"),
        ('{"slices": [{"index": 1.5, "prompt": "self"}]}', "has no index or no prompt"),
        ('{"slices": [{"index": 1' + "0" * 400 + ', "prompt": "self"}]}', "has no index or no prompt"),
        ('{"slices": [{"index": 0, "prompt": "self", "box": [1, 2, 3]}]}', "the box of slices\\[0\\] is not"),
        ('{"slices": [{"index": 0, "prompt": "self", "box": [1, 2, NaN, 4]}]}', "the box of slices\\[0\\] is not"),
        ('{"slices": [{"index": 0, "prompt": "self", "box": [5, 2, 3, 4]}]}', "the box of slices\\[0\\] is not"),
        ('{"slices": [{"index": 0, "prompt": "self", "box": "all"}]}', "the box of slices\\[0\\] is not"),
        ('{"slices": [{"index": 0, "prompt": "points", "points": [[1, 2]]}]}', "a point of slices\\[0\\] is not"),
        ('{"slices": [{"index": 0, "prompt": "points", "points": [[1, 2, 7]]}]}', "a point of slices\\[0\\] is not"),
    ],
)
def test_what_is_no_record_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_prompts(text)


def test_record_is_looked_for_beside_the_prediction(tmp_path: Path) -> None:
    assert read_prompts(tmp_path / "case.7.nii.gz") is None
    (tmp_path / "case.7_prompts.json").write_text(json.dumps(record()), encoding="utf-8")
    assert read_prompts(tmp_path / "case.7.nii.gz") == parse_prompts(json.dumps(record()))


def test_unreadable_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a_prompts.json").mkdir()
    with pytest.raises(InputError, match=r"a_prompts\.json could not be read"):
        read_prompts(tmp_path / "a.png")
    (tmp_path / "b_prompts.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"b_prompts\.json is not valid JSON"):
        read_prompts(tmp_path / "b.png")


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", AFFINES)
def test_box_surrounds_the_object_in_the_panels(tmp_path: Path, name: str, plane: str) -> None:
    loaded = blob_case(tmp_path, AFFINES[name], boxes_as_inferred(AFFINES[name], plane))
    page = example("only", loaded, plane)
    painted = np.asarray(decode(re.findall(r'src="([^"]+)"', page)[2])).astype(int)
    object_ = np.ptp(painted, axis=2) > 40
    assert rectangles(page) == [pytest.approx(extent(object_), abs=0.51)] * 2  # on the image and the prediction
    assert "self-prompt box" in page


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", AFFINES)
def test_box_surrounds_the_object_in_every_slice_of_the_viewer(tmp_path: Path, name: str, plane: str) -> None:
    view = volume_view(blob_case(tmp_path, AFFINES[name], boxes_as_inferred(AFFINES[name], plane)), plane, "", 10**6)
    assert view is not None
    sheet = np.asarray(decode(str(view["prediction"])))
    width, height, columns, count = (int(str(view[key])) for key in ("width", "height", "columns", "count"))
    prompts = view["prompts"]
    tiles = [
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row, column in (divmod(index, columns) for index in range(count))
    ]
    expected = [pytest.approx(extent(tile > 0), abs=0.51) if tile.any() else None for tile in tiles]
    assert [prompt["box"] and edges(prompt["box"]) for prompt in prompts] == expected  # type: ignore[attr-defined]
    assert [prompt["text"] for prompt in prompts] == [  # type: ignore[attr-defined]
        "self-prompt box" if tile.any() else "no prompt (first mask empty)" for tile in tiles
    ]


def test_other_planes_show_no_box_and_say_why(tmp_path: Path) -> None:
    loaded = blob_case(tmp_path, np.eye(4), boxes_as_inferred(np.eye(4), "coronal"))
    page = example("only", loaded, "axial")
    assert rectangles(page) == []
    assert "Prompts were used on coronal slices; this one is axial, so none is drawn." in page
    assert "prompts" not in (volume_view(loaded, "axial", "", 10**6) or {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": 16, "prompt": "null"}, "the record is of another image: slice 17"),
        ({"index": 0, "prompt": "self", "box": [20, 0, 30, 9]}, "the record is of another image: slice 1"),
        ({"index": 0, "prompt": "points", "points": [[3, 24, 1]]}, "the record is of another image: slice 1"),
    ],
)
def test_record_of_another_image_is_noted(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    loaded = blob_case(tmp_path, np.eye(4), record(changes))
    assert loaded.prompts is None
    assert [note for note in loaded.notes if message in note]


def test_unknown_plane_is_noted(tmp_path: Path) -> None:
    assert "got 'oblique'" in blob_case(tmp_path, np.eye(4), record(plane="oblique")).notes[0]


def test_box_that_somebody_gave_ends_where_the_slice_does(tmp_path: Path) -> None:
    loaded = blob_case(tmp_path, np.eye(4), record({"index": 9, "prompt": "box", "box": [-4, 10, 99, 12]}))
    prompt = loaded.prompt_of("axial", 9)
    assert prompt is not None
    assert place_marks(prompt, (24, 20), (20, 24)).box == (0, 10, 20, 3)


def test_only_slice_of_a_volume_has_its_box_in_its_own_plane(tmp_path: Path) -> None:
    voxels = np.zeros((6, 1, 5), np.uint8)
    paths = {name: tmp_path / f"{name}.nii" for name in ("image", "prediction")}
    for path in paths.values():
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    entry = {"index": 0, "prompt": "self", "box": [1, 1, 2, 2]}
    (tmp_path / "prediction_prompts.json").write_text(json.dumps(record(entry, plane="coronal")), encoding="utf-8")
    assert load_case(ScoredCase("case", paths, [], 1.0)).prompt_of("axial", 0) is not None  # what is shown is coronal
    (tmp_path / "prediction_prompts.json").write_text(json.dumps(record(entry, plane="axial")), encoding="utf-8")
    assert load_case(ScoredCase("case", paths, [], 1.0)).prompt_of("axial", 0) is None


@pytest.mark.parametrize("axes", [[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
def test_box_of_a_file_with_two_axes_is_turned_as_the_file_is(tmp_path: Path, axes: list[float]) -> None:
    voxels = np.zeros((9, 7), np.uint8)
    voxels[1:3, 4:7] = 1  # MONAI gives this to a network as columns 1 to 2, rows 4 to 6
    paths = {name: tmp_path / f"{name}.nii" for name in ("image", "label", "prediction")}
    for path in paths.values():
        nib.save(nib.Nifti1Image(voxels, np.diag([*axes, 1.0, 1.0])), path)
    entry = {"index": 0, "prompt": "self", "box": [1, 4, 2, 6]}
    (tmp_path / "prediction_prompts.json").write_text(json.dumps(record(entry)), encoding="utf-8")
    loaded = load_case(ScoredCase("case", paths, [], 1.0))
    prompt, shown = loaded.prompt_of("axial", 0), loaded.labels["prediction"].frame("axial", 0)
    assert prompt is not None
    assert edges(place_marks(prompt, shown.shape, (shown.shape[1], shown.shape[0])).box or ()) == extent(shown)


def test_pictures_of_other_sizes_keep_their_boxes(tmp_path: Path) -> None:
    cases = []
    for number, (rows, columns) in enumerate(((40, 60), (50, 20))):
        pixels = np.zeros((rows, columns), np.uint8)
        pixels[10:20, 5:12] = 1
        paths = {name: tmp_path / f"{name}{number}.png" for name in ("image", "prediction")}
        for path in paths.values():
            Image.fromarray(pixels).save(path)
        entry = {"index": 0, "prompt": "self", "box": [5, 10, 11, 19]}
        (tmp_path / f"prediction{number}_prompts.json").write_text(json.dumps(record(entry)), encoding="utf-8")
        cases.append(ScoredCase(f"case {number}", paths, [], 1.0))
    view = pictures_view(cases, "", 10**6)
    assert view is not None
    sheet = np.asarray(decode(str(view["prediction"])))
    width, height, columns = (int(str(view[key])) for key in ("width", "height", "columns"))
    for number, prompt in enumerate(view["prompts"]):  # type: ignore[arg-type,var-annotated]
        top, left = number // columns * height, number % columns * width
        assert edges(prompt["box"]) == pytest.approx(extent(sheet[top : top + height, left : left + width]), abs=0.51)


def test_points_are_drawn_as_plus_and_minus() -> None:
    prompt = parsed(prompt="points", points=[[10, 5, 1], [3, 8, 0]])
    drawn = marks_layer(place_marks(prompt, (20, 20), (40, 40)), (40, 40))
    paths = re.findall(r'<path d="([^"]+)" class="stroke">', str(drawn))
    assert paths == ["M20 11h2M21 10v2", "M6 17h2"]


def test_nothing_is_drawn_without_a_prompt() -> None:
    assert marks_layer(place_marks(parsed(prompt="null"), (20, 20), (40, 40)), (40, 40)) is None
