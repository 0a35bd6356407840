# SPDX-License-Identifier: Apache-2.0
"""The record of an evaluation on photographs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Activationsd, AsDiscreted, Compose, CopyItemsd
from scipy.ndimage import gaussian_filter

from monai_ext.errors import InputError
from monai_ext.handlers import CaseScores, SaliencyScores
from monai_ext.metrics import SALIENCY_SCORES, saliency_scores


def images(count: int = 4) -> list[dict[str, Any]]:
    """Blurred noise whose bright parts are the object; the last image has none."""
    random = np.random.default_rng(0)
    items = []
    for number in range(count):
        field = gaussian_filter(random.standard_normal((1, 20, 26)), (0, 3, 3))
        field /= field.std()
        label = field > (0.6 if number < count - 1 else 99)
        noisy = field + random.normal(0, 0.5, field.shape)
        meta = {"filename_or_obj": f"/data/photo-{number}.jpg"}
        items.append(
            {
                "image": MetaTensor(torch.from_numpy(noisy).float(), meta=meta),
                "label": torch.from_numpy(label).float(),
                "site": "kitchen",
            }
        )
    return items


def evaluate(items: list[dict[str, Any]], handlers: list[Any], post: list[Any]) -> SupervisedEvaluator:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=3),
        network=torch.nn.Identity(),
        postprocessing=Compose(post),
        val_handlers=handlers,
    )
    evaluator.run()
    return evaluator


def test_means_leave_out_the_empty_image_and_count_it(tmp_path: Path) -> None:
    items = images()
    evaluator = evaluate(items, [SaliencyScores(tmp_path)], [Activationsd("pred", sigmoid=True)])
    content = json.loads((tmp_path / "saliency.json").read_text(encoding="utf-8"))
    each = [saliency_scores(item["image"].sigmoid(), item["label"]) for item in items]
    assert (content["images"], content["empty_images"], content["stretch"]) == (4, 1, "none")
    for score in SALIENCY_SCORES:
        expected = np.mean([scores[score] for scores in each[:3]])
        assert content["metrics"][score]["mean"] == pytest.approx(expected, rel=1e-5)
        assert evaluator.state.metrics[f"saliency_{score}"] == content["metrics"][score]["mean"]
    assert content["metrics"]["mae"]["n"] == 3
    kitchen = content["sites"]["kitchen"]  # all three are of one site
    assert kitchen == {score: content["metrics"][score]["mean"] for score in SALIENCY_SCORES}
    assert content["empty"]["mae"]["mean"] == pytest.approx(each[3]["mae"], rel=1e-5)
    assert content["empty"]["false_alarm"]["mean"] > 0
    dice, iou = (content["metrics"][name]["mean"] for name in ("mean_dice", "mean_iou"))
    assert iou >= dice / (2 - dice)


def test_the_table_has_a_row_per_image(tmp_path: Path) -> None:
    evaluate(images(), [SaliencyScores(tmp_path)], [Activationsd("pred", sigmoid=True)])
    with open(tmp_path / "saliency.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["photo-0", "photo-1", "photo-2", "photo-3"]
    assert (rows[0]["image"], rows[0]["site"]) == ("/data/photo-0.jpg", "kitchen")
    assert (rows[3]["s_measure"], rows[0]["false_alarm"]) == ("", "")
    assert float(rows[3]["mae"]) > 0


def test_the_published_stretch_is_a_choice(tmp_path: Path) -> None:
    values = {}
    for stretch in ("none", "paper"):
        scores = SaliencyScores(tmp_path / stretch, stretch=stretch)
        metrics = evaluate(images(), [scores], [Activationsd("pred", sigmoid=True)]).state.metrics
        assert json.loads((tmp_path / stretch / "saliency.json").read_text(encoding="utf-8"))["stretch"] == stretch
        values[stretch] = metrics
    assert values["none"]["saliency_mean_dice"] != values["paper"]["saliency_mean_dice"]
    assert values["none"]["saliency_dice_at_half"] == values["paper"]["saliency_dice_at_half"]


def test_probabilities_and_masks_are_scored_in_one_evaluation(tmp_path: Path) -> None:
    post = [
        Activationsd("pred", sigmoid=True),
        CopyItemsd("pred", names="probability"),
        AsDiscreted("pred", threshold=0.5),
    ]
    handlers = [CaseScores(tmp_path, 1), SaliencyScores(tmp_path, pred_key="probability")]
    metrics = evaluate(images()[:3], handlers, post).state.metrics
    assert metrics["mean_dice"] == pytest.approx(metrics["saliency_dice_at_half"])
    assert metrics["mean_dice"] != pytest.approx(metrics["saliency_mean_dice"], abs=1e-3)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/data/photo-0\.jpg: probabilities must lie in \[0, 1\]"):
        evaluate(images(), [SaliencyScores(tmp_path)], [])


def test_an_unknown_stretch_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stretch must be one of none, paper, got 'minmax'"):
        SaliencyScores(tmp_path, stretch="minmax")  # type: ignore[arg-type]
