# SPDX-License-Identifier: Apache-2.0
"""Every recipe trains, evaluates and segments, on a few generated files in the folders it is meant for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_ext.data import load_datalist
from monai_ext.metrics import saliency_scores
from tests.bundles.made_data import LAYOUTS, split_of, volumes
from tests.bundles.profiles import ROOT
from tests.bundles.runs import configs, read_json, rows_of, run

NAME = "sam2_unet"
RGB: dict[str, Any] = {"in_channels": 3, "num_classes": 1}


def tune(folder: Path, data: Path, task: str, **knobs: Any) -> None:
    files = ("train.json", "recipe_rgb.json", f"recipe_{task}.json")
    run(NAME, "training", files, folder, data, **{**RGB, "batch_size": 2, "val_fraction": 0.4, **knobs})


def evaluate(folder: Path, data: Path, task: str, **knobs: Any) -> None:
    files = ("train.json", "recipe_rgb.json", f"recipe_{task}.json", "evaluate.json", "evaluate_saliency.json")
    run(NAME, "evaluating", files, folder, data, **{**RGB, **knobs})


@pytest.fixture(scope="module")
def polyps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a run on polyps, evaluated with predictions saved, and its data."""
    data, folder = split_of("polyps", tmp_path_factory.mktemp("polyps")), tmp_path_factory.mktemp("run")
    tune(folder, data, "polyps")
    evaluate(folder, data, "polyps")
    return folder, data


@pytest.mark.parametrize("task", ["camouflage", "salient"])
def test_each_split_trains_and_is_summarised_by_set(task: str, tmp_path: Path) -> None:
    data = split_of(task, tmp_path / "data")
    tune(tmp_path, data, task)
    evaluate(tmp_path, data, task)
    summary = read_json(tmp_path / "eval" / "summary.json")
    assert set(summary["sites"]) == set(LAYOUTS[task][2])
    assert summary["cases"] == 2 * len(LAYOUTS[task][2])
    assert read_json(tmp_path / "eval" / "saliency.json")["images"] == summary["cases"]


def test_saved_maps_are_in_the_pictures_own_size_and_named_by_set(polyps: tuple[Path, Path]) -> None:
    saved = {p.name: Image.open(p) for p in (polyps[0] / "eval" / "predictions").glob("*.png")}
    assert sorted(saved) == sorted(f"{name}_{number}.png" for name in LAYOUTS["polyps"][2] for number in (0, 1))
    assert all(image.size == (40, 30) for image in saved.values())
    assert all(set(np.unique(np.asarray(image))) <= {0, 1} for image in saved.values())


def test_empty_pictures_are_counted_and_left_out_of_the_means(polyps: tuple[Path, Path]) -> None:
    content = read_json(polyps[0] / "eval" / "saliency.json")
    assert (content["images"], content["empty_images"], content["stretch"]) == (10, 1, "none")
    assert all(content["metrics"][score]["n"] == 9 for score in ("s_measure", "weighted_f", "mean_e", "mae"))
    (empty,) = [row for row in rows_of(polyps[0] / "eval" / "saliency.csv") if row["false_alarm"]]
    assert (empty["site"], empty["s_measure"]) == ("CVC-300", "")


def test_dice_at_half_is_the_dice_of_the_saved_mask(polyps: tuple[Path, Path]) -> None:
    scores = {row["case"]: row["dice_at_half"] for row in rows_of(polyps[0] / "eval" / "saliency.csv")}
    cases = [row for row in rows_of(polyps[0] / "eval" / "cases.csv") if scores[row["case"]]]
    assert len(cases) == 9
    for row in cases:
        assert float(row["dice"]) == pytest.approx(float(scores[row["case"]]), abs=1e-6)


def probability_of(folder: Path, image: str) -> torch.Tensor:
    """What the trained network says, computed by hand from the file."""
    from sam2_unet.network import SAM2UNet

    network = SAM2UNet(backbone="nano", image_size=32).eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    pixels = torch.from_numpy(np.asarray(Image.open(image))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        return network(pixels).sigmoid()[0]


@pytest.mark.parametrize(("stretch", "tolerance"), [("none", 1e-5), ("paper", 2e-3)])  # 256 levels: rounding shows
def test_saliency_scores_are_those_of_the_probabilities_at_full_size(
    stretch: Literal["none", "paper"], tolerance: float, polyps: tuple[Path, Path], tmp_path: Path
) -> None:
    weights = str(polyps[0] / "models" / "model.pt")
    knobs = {"saliency_stretch": stretch, "test_sets": "Kvasir", "ckpt_path": weights, "save_predictions": False}
    evaluate(tmp_path, polyps[1], "polyps", **knobs)
    rows = rows_of(tmp_path / "eval" / "saliency.csv")
    assert len(rows) == 2
    for row in rows:
        mask = np.asarray(Image.open(row["label"])) > 127
        expected = saliency_scores(probability_of(polyps[0], row["image"])[0], mask, stretch)
        for score in ("s_measure", "weighted_f", "mean_e", "mae", "mean_dice", "mean_iou", "dice_at_half"):
            assert float(row[score]) == pytest.approx(expected[score], abs=tolerance), score
    assert read_json(tmp_path / "eval" / "saliency.json")["stretch"] == stretch
    assert read_json(tmp_path / "eval" / "evaluation.json")["knobs"]["saliency_stretch"] == stretch
    assert "saliency_mean_dice" in read_json(tmp_path / "eval" / "evaluation.json")["metrics"]


def test_the_papers_stretch_changes_the_curve_and_not_the_mask(polyps: tuple[Path, Path], tmp_path: Path) -> None:
    weights = str(polyps[0] / "models" / "model.pt")
    evaluate(tmp_path, polyps[1], "polyps", saliency_stretch="paper", ckpt_path=weights)
    plain = read_json(polyps[0] / "eval" / "saliency.json")["metrics"]
    paper = read_json(tmp_path / "eval" / "saliency.json")["metrics"]
    assert paper["mean_dice"]["mean"] != pytest.approx(plain["mean_dice"]["mean"], abs=1e-4)
    assert paper["dice_at_half"] == plain["dice_at_half"]


def test_soft_masks_of_training_stay_between_0_and_1(tmp_path: Path) -> None:
    data = split_of("polyps", tmp_path / "data")
    parser = ConfigParser()
    parser.read_config(configs(NAME, "train.json", "recipe_rgb.json", "recipe_polyps.json"))
    parser.update({"bundle_root": str(tmp_path), "dataset_dir": str(data), "image_size": 64, "val_fraction": 0.2})
    dataset = parser.get_parsed_content("train#dataset")
    masks = torch.cat([item["label"] for item in dataset])
    assert tuple(masks.shape) == (5, 64, 64)
    assert (float(masks.min()), float(masks.max())) == (0.0, 1.0)
    assert 0.01 < float(((masks > 0) & (masks < 1)).float().mean()) < 0.5
    resize = parser.get_parsed_content("train#preprocessing#transforms#0")
    raw = resize({"image": torch.zeros(3, 30, 40), "label": torch.eye(30, 40)[None]})
    assert float(raw["label"].min()) < 0  # without the recipe's cut, bicubic leaves the range


def test_training_on_all_pictures_without_validation_keeps_the_last_epoch(tmp_path: Path) -> None:
    data = split_of("polyps", tmp_path / "data")
    knobs = {"val_fraction": 0, "val_interval": 1000, "validate#dataset#data#section": "training"}
    tune(tmp_path, data, "polyps", **knobs)
    last = torch.load(tmp_path / "eval" / "checkpoint.pt", weights_only=True)["objects"]["network"]
    kept = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(kept[name], last[name]) for name in kept)
    assert "val_mean_dice" not in read_json(tmp_path / "eval" / "history.json")["epochs"][0]


def test_inference_on_a_folder_of_pictures(polyps: tuple[Path, Path], tmp_path: Path) -> None:
    images = polyps[1] / "TestDataset" / "Kvasir" / "images"
    files = ("inference.json", "recipe_rgb.json")
    run(NAME, "inferring", files, tmp_path, images, **RGB, ckpt_path=str(polyps[0] / "models" / "model.pt"))
    for number in (0, 1):
        mask = np.asarray(Image.open(tmp_path / "eval" / "predictions" / f"{number}.png"))
        scored = Image.open(polyps[0] / "eval" / "predictions" / f"Kvasir_{number}.png")
        assert np.array_equal(mask, np.asarray(scored))


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    from monai_ext.errors import find_input_error

    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what we raise
        tune(tmp_path, tmp_path, "salient")
    assert "looked for one folder called DUTS-TR" in str(find_input_error(caught.value))


def every_step(recipe: str, segmenting: str, folder: Path, data: Path, **knobs: Any) -> np.ndarray:
    """Train, evaluate and segment the test scan; return its label map."""
    run(NAME, "training", ("train.json", recipe), folder, data, **knobs)
    run(NAME, "evaluating", ("train.json", recipe, "evaluate.json"), folder, data, **knobs)
    evaluated = np.asarray(nib.load(next((folder / "eval" / "predictions").glob("test*.nii.gz"))).dataobj)
    weights = str(folder / "models" / "model.pt")
    run(NAME, "inferring", ("inference.json", segmenting), folder / "alone", data, ckpt_path=weights, **knobs)
    (alone,) = (folder / "alone" / "eval" / "predictions").glob("*.nii.gz")
    assert np.array_equal(evaluated, np.asarray(nib.load(alone).dataobj))
    return evaluated


@pytest.mark.parametrize("enhancing", [3, 4], ids=["labels-of-2023", "labels-until-2021"])
def test_brats(enhancing: int, tmp_path: Path) -> None:
    data = volumes(tmp_path / "data", 4, (0, 1, 2, enhancing))
    found = every_step("recipe_brats.json", "recipe_brats_inference.json", tmp_path, data, in_channels=4, num_classes=4)
    assert set(np.unique(found)) <= {0, 1, 2, 3}
    rows = rows_of(tmp_path / "eval" / "cases.csv")
    assert {row["class_name"]: int(row["truth_voxels"]) for row in rows} == {
        "necrotic core": 192, "oedema": 192, "enhancing tumour": 192,
    }  # fmt: skip


def test_brats_scans_reach_the_network_normalised_without_their_empty_surroundings(tmp_path: Path) -> None:
    data = volumes(tmp_path / "data", 4, (0, 1, 2, 4))
    item = {"image": [str(data / f"test_{n}.nii.gz") for n in range(4)], "label": str(data / "test_label.nii.gz")}
    parser = ConfigParser()
    parser.read_config(configs(NAME, "train.json", "recipe_brats.json"))
    parser.update({"bundle_root": str(tmp_path)})
    for name in ("validate#preprocessing", "train#dataset#reading"):
        config = parser.get(name)
        reading = parser.get_parsed_content(config[1:] if config.startswith("@") else name)
        read = reading(item)
        for channel in read["image"]:
            inside = channel[channel != 0]
            assert len(inside) < channel.numel()
            assert float(inside.mean()) == pytest.approx(0, abs=1e-4)
            assert float(inside.std(correction=0)) == pytest.approx(1, abs=1e-4)
        assert set(read["label"].unique().tolist()) == {0, 1, 2, 3}


def test_ct(tmp_path: Path) -> None:
    data = volumes(tmp_path / "data", 1, (0, 1, 6, 13))
    found = every_step("recipe_ct.json", "recipe_ct.json", tmp_path, data, in_channels=1, num_classes=14)
    assert found.shape == (20, 24, 6)
    names = {row["class_name"] for row in rows_of(tmp_path / "eval" / "cases.csv")}
    assert {"spleen", "liver", "left adrenal gland"} < names
    assert len(names) == 13
    knobs = read_json(tmp_path / "eval" / "run.json")["knobs"]
    assert (knobs["slice_context"], knobs["intensity"]) == (1, "window")


def guide() -> str:
    return (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", guide(), flags=re.DOTALL)


def test_the_guides_code_lists_the_folders_of_brats(tmp_path: Path) -> None:
    for number in range(5):
        name = f"BraTS20_Training_{number:03d}"
        (tmp_path / "data" / "brats" / name).mkdir(parents=True)
        for part in ("flair", "t1", "t1ce", "t2", "seg"):
            (tmp_path / "data" / "brats" / name / f"{name}_{part}.nii").write_bytes(b"x")
    exec(snippets()[0], {})
    sections = {part: load_datalist("data/brats", part) for part in ("training", "validation", "test")}
    assert [len(items) for items in sections.values()] == [3, 1, 1]
    (item,) = sections["test"]
    assert [Path(path).name[21:] for path in item["image"]] == ["flair.nii", "t1.nii", "t1ce.nii", "t2.nii"]
    assert (Path(item["label"]).name[21:], item["subject"]) == ("seg.nii", "BraTS20_Training_000")


def test_the_guides_code_scores_the_regions_of_a_tumour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, values in (("found", [0, 1, 2, 3, 0, 3]), ("true", [0, 1, 2, 4, 4, 0])):
        nib.save(nib.Nifti1Image(np.array(values, np.uint8).reshape(1, 2, 3), np.eye(4)), f"{name}.nii.gz")
    (tmp_path / "runs" / "brats").mkdir(parents=True)
    lines = "case,prediction,label,class\na,found.nii.gz,true.nii.gz,1\na,found.nii.gz,true.nii.gz,2\n"
    (tmp_path / "runs" / "brats" / "cases.csv").write_text(lines, encoding="utf-8")
    exec(snippets()[1], {})
    assert capsys.readouterr().out.splitlines() == [
        "whole tumour: Dice 0.7500, IoU 0.6000, 1 subjects",
        "tumour core: Dice 0.6667, IoU 0.5000, 1 subjects",
        "enhancing tumour: Dice 0.5000, IoU 0.3333, 1 subjects",
    ]
