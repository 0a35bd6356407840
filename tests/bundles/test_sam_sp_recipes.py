# SPDX-License-Identifier: Apache-2.0
"""Every recipe of SAM-SP trains, evaluates and segments, and what its documents tell users to do works."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from sam_sp.network import SAMSP

from tests.bundles.made_data import POLYPS, split_of, volumes
from tests.bundles.profiles import ROOT
from tests.bundles.runs import bundle, read_json, rows_of, run

NAME = "sam_sp"
SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "polyps": (("recipe_rgb.json", "recipe_polyps.json"), {"in_channels": 3, "batch_size": 2, "val_fraction": 0.4}),
    "ct": (("recipe_ct.json",), {"num_classes": 14}),
    "mr": (("recipe_mr.json",), {"class_names": ["background", "left atrium"]}),
}


def card() -> str:
    return (bundle(NAME) / "docs" / "README.md").read_text(encoding="utf-8")


def guide() -> str:
    return (ROOT / "docs" / "recipes_sam_sp.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def tune(kind: str, folder: Path, data: Path) -> None:
    files, knobs = SETTINGS[kind]
    run(NAME, "training", ("train.json", *files), folder, data, **knobs)


def evaluate(kind: str, folder: Path, data: Path, *more: str, **other: Any) -> None:
    files, knobs = SETTINGS[kind]
    run(NAME, "evaluating", ("train.json", *files, "evaluate.json", *more), folder, data, **{**knobs, **other})


def segment(kind: str, folder: Path, data: Path, weights: Path, **other: Any) -> Path:
    """Segment with the recipe's file for inference; return the folder of the label maps."""
    files, knobs = SETTINGS[kind]
    run(NAME, "inferring", ("inference.json", files[0]), folder, data, **{**knobs, "ckpt_path": str(weights), **other})
    return folder / "eval" / "predictions"


@pytest.fixture(scope="module")
def polyps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a run on polyps, evaluated with predictions saved, and its data."""
    data, folder = split_of("polyps", tmp_path_factory.mktemp("polyps")), tmp_path_factory.mktemp("run")
    tune("polyps", folder, data)
    evaluate("polyps", folder, data)
    return folder, data


@pytest.fixture(scope="module")
def atrium(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a run on one structure in MR, and its data, a Decathlon list without labels of the test scans."""
    folder = tmp_path_factory.mktemp("run")
    data = volumes(tmp_path_factory.mktemp("data") / "Task02_Heart", 1, (0, 1))
    listed = json.loads((data / "datalist.json").read_text(encoding="utf-8"))
    training = [*listed["training"], *listed["validation"]]
    content = {"training": training, "test": ["./test_0.nii.gz"]}
    (data / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    (data / "datalist.json").unlink()
    tune("mr", folder, data)
    return folder, data


def test_polyps_are_summarised_by_set_and_recorded_with_their_prompts(polyps: tuple[Path, Path]) -> None:
    summary = read_json(polyps[0] / "eval" / "summary.json")
    assert set(summary["sites"]) == set(POLYPS)
    assert (summary["cases"], summary["conventions"]["prompt_source"]) == (10, "self")
    predictions = polyps[0] / "eval" / "predictions"
    assert len(list(predictions.glob("*.png"))) == len(list(predictions.glob("*_prompts.json"))) == 10
    assert {row["class_name"] for row in rows_of(polyps[0] / "eval" / "cases.csv")} == {"polyp"}


def test_the_first_mask_of_one_set_alone(polyps: tuple[Path, Path], tmp_path: Path) -> None:
    weights = str(polyps[0] / "models" / "model.pt")
    evaluate("polyps", tmp_path, polyps[1], prompt_source="null", test_sets="Kvasir", ckpt_path=weights)
    records = [read_json(path) for path in (tmp_path / "eval" / "predictions").glob("*_prompts.json")]
    assert len(records) == 2
    assert {entry["prompt"] for record in records for entry in record["slices"]} == {"null"}


def test_the_scores_of_papers_on_polyps(polyps: tuple[Path, Path], tmp_path: Path) -> None:
    weights = str(polyps[0] / "models" / "model.pt")
    scoring = str(bundle("sam2_unet") / "configs" / "evaluate_saliency.json")
    evaluate("polyps", tmp_path, polyps[1], scoring, test_sets="Kvasir", ckpt_path=weights)
    rows = {row["case"]: row for row in rows_of(tmp_path / "eval" / "saliency.csv")}
    assert len(rows) == 2
    for case in rows_of(tmp_path / "eval" / "cases.csv"):
        assert float(rows[case["case"]]["dice_at_half"]) == pytest.approx(float(case["dice"]), abs=1e-6)


def test_pictures_in_a_folder_are_segmented_as_in_the_evaluation(polyps: tuple[Path, Path], tmp_path: Path) -> None:
    images = polyps[1] / "TestDataset" / "Kvasir" / "images"
    found = segment("polyps", tmp_path, images, polyps[0] / "models" / "model.pt")
    for number in (0, 1):
        scored = polyps[0] / "eval" / "predictions" / f"Kvasir_{number}.png"
        assert np.array_equal(np.asarray(Image.open(found / f"{number}.png")), np.asarray(Image.open(scored)))


@pytest.mark.parametrize("multiclass_box", ["union", "per_class"])
def test_ct(multiclass_box: str, tmp_path: Path) -> None:
    data = volumes(tmp_path / "data", 1, (0, 1, 6, 13))
    tune("ct", tmp_path, data)
    evaluate("ct", tmp_path, data, multiclass_box=multiclass_box)
    weights = tmp_path / "models" / "model.pt"
    alone = segment("ct", tmp_path / "alone", data, weights, multiclass_box=multiclass_box)
    evaluated = np.asarray(nib.load(tmp_path / "eval" / "predictions" / "test_0.nii.gz").dataobj)
    assert evaluated.shape == (20, 24, 6)
    assert np.array_equal(evaluated, np.asarray(nib.load(alone / "test_0.nii.gz").dataobj))
    names = {row["class_name"] for row in rows_of(tmp_path / "eval" / "cases.csv")}
    assert {"spleen", "liver", "left adrenal gland"} < names
    assert len(names) == 13


def test_mr_without_test_labels_scores_the_validation_with_its_true_boxes(
    atrium: tuple[Path, Path], tmp_path: Path
) -> None:
    evaluate("mr", tmp_path, atrium[1], prompt_source="truth", ckpt_path=str(atrium[0] / "models" / "model.pt"))
    (row,) = rows_of(tmp_path / "eval" / "cases.csv")
    assert (row["class_name"], row["truth_voxels"]) == ("left atrium", "192")
    record = read_json(tmp_path / "eval" / "predictions" / f"{row['case']}_prompts.json")
    assert record["prompt_source"] == "truth"
    # the box of volumes() upright: columns 4 to 15 of 20 and rows 4 to 7 of 24, counted from the other end
    boxes = {entry["index"]: entry["box"] for entry in record["slices"] if entry["prompt"] == "box"}
    assert boxes == {index: [4.0, 16.0, 15.0, 19.0] for index in (1, 2, 3, 4)}


def test_mr_inference_takes_the_scans_without_labels(atrium: tuple[Path, Path], tmp_path: Path) -> None:
    found = segment("mr", tmp_path, atrium[1], atrium[0] / "models" / "model.pt")
    assert nib.load(found / "test_0.nii.gz").shape == (20, 24, 6)


def test_a_data_list_may_carry_the_prompts_of_a_user(atrium: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(atrium[1] / "test_0.nii.gz", tmp_path / f"{name}.nii.gz")
    listed = next(json.loads(text) for text in blocks(card(), "json") if '"test"' in text)
    listed["test"][0]["box"] = [4, 15, 2, 9, 1, 2]  # the card's is for a scan of usual size
    (tmp_path / "list.json").write_text(json.dumps(listed), encoding="utf-8")
    found = segment("mr", tmp_path, tmp_path / "list.json", atrium[0] / "models" / "model.pt")
    records = {name: read_json(found / f"{name}_prompts.json") for name in ("a", "b")}
    given = {entry["index"]: entry["box"] for entry in records["a"]["slices"] if entry["prompt"] == "box"}
    assert given == {index: [4.0, 14.0, 15.0, 21.0] for index in (1, 2)}  # its first axis runs the other way
    assert {entry["prompt"] for entry in records["b"]["slices"]} <= {"self", "null"}
    (told,) = [json.loads(text) for text in blocks(card(), "json") if '"slices"' in text]
    assert set(told) == set(records["a"])
    assert set(told["slices"][0]) == set(records["a"]["slices"][0])


def test_the_cards_code_prompts_and_lets_be(tmp_path: Path) -> None:
    (code,) = blocks(card(), "python")
    (tmp_path / "models").mkdir()
    torch.save(SAMSP(in_channels=1, sam_type="vit_tiny", image_size=64).state_dict(), "models/model.pt")
    small = code.replace('"vit_b", image_size=1024', '"vit_tiny", image_size=64')
    assert small != code
    names: dict[str, Any] = {}
    exec(small, names)
    assert names["mask"].shape == (2, 1, 400, 300)
    assert torch.equal(names["own"].logits > 0, names["mask"])
    assert names["boxed"].prompts[0] == "box"
    assert names["boxed"].boxes[0].tolist() == pytest.approx([40, 60, 200, 310], abs=1e-3)
    assert names["boxed"].prompts[1] == names["own"].prompts[1]
    assert torch.equal(names["boxed"].logits[1], names["own"].logits[1])
    assert names["clicked"].prompts == ["points", "points"]


@pytest.mark.parametrize("text", [guide(), card()], ids=["guide", "card"])
def test_knobs_in_the_text_exist(text: str) -> None:
    inline = re.findall(r"`([^`]*--[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    files = [*(bundle(NAME) / "configs").glob("*.json"), bundle("sam2_unet") / "configs" / "evaluate_saliency.json"]
    known = {key for path in files for key in read_json(path)}
    options = {option for line in inline for option in re.findall(r"--([a-z_]\w*)", line)}
    assert options
    assert options - known <= {"tracking", "plain_image_size", "formats"}  # of MONAI, of export


def test_links_to_headings_of_the_card_lead_there() -> None:
    headings = re.findall(r"^## (.+)$", card(), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    named = {*re.findall(r"README\.md#([\w-]+)", guide()), *re.findall(r"\]\(#([\w-]+)\)", card())}
    assert named
    assert named <= anchors
