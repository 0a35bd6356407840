# SPDX-License-Identifier: Apache-2.0
"""The second table of an evaluation: SAMed's scores of the same predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.handlers import SAMedScores


def volume(*classes: int) -> Tensor:
    """A label map whose first slices are these classes, one each."""
    label = torch.zeros(1, 4, 4, 5)
    for position, index in enumerate(classes):
        label[..., position] = index
    return label


CASES = [
    {"case": "a", "pred": volume(1, 2), "label": volume(1, 2)},
    {"case": "b", "pred": volume(1, 2), "label": volume(1)},  # a false object
    {"case": "b", "pred": volume(1, 2), "label": volume(1)},  # which another process has seen, too
    {"case": "c", "pred": volume(1), "label": volume(1, 2)},  # a missed one
]


def evaluate(folder: Path, **knobs: Any) -> None:
    evaluator = Engine(lambda engine, batch: [batch])
    SAMedScores(folder, num_classes=3, **knobs).attach(evaluator)
    evaluator.run([{**case, "image": case["label"]} for case in CASES])


def test_it_counts_as_samed_does_and_averages_over_cases_then_classes(tmp_path: Path) -> None:
    evaluate(tmp_path, convention="samed", class_names=["background", "liver", "spleen"])
    summary = json.loads((tmp_path / "summary_samed.json").read_text(encoding="utf-8"))
    assert summary["cases"] == 3
    assert [(c["name"], c["dice"]) for c in summary["classes"]] == [("liver", 1.0), ("spleen", pytest.approx(2 / 3))]
    assert summary["mean_foreground"] == {"dice": pytest.approx(5 / 6), "hd95_voxels": 0.0}
    with open(tmp_path / "cases_samed.csv", newline="", encoding="utf-8") as file:
        rows = [(row["case"], row["class_name"], float(row["dice"])) for row in csv.DictReader(file)]
    assert rows[2:4] == [("b", "liver", 1.0), ("b", "spleen", 1.0)]
    assert rows[-1] == ("c", "spleen", 0.0)


def test_by_the_standard_convention_it_writes_nothing(tmp_path: Path) -> None:
    evaluate(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_convention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metric_convention must be one of standard, samed, got 'medpy'"):
        SAMedScores(tmp_path, num_classes=1, convention="medpy")
