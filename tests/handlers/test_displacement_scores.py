# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation of registration, its key metric, and the files that training and inference leave."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from monai.data import MetaTensor

from monai_ext.errors import InputError
from monai_ext.handlers import (
    BoundPart,
    DisplacementScores,
    RegistrationError,
    RegistrationOverlays,
    SaveRegistrations,
)
from monai_ext.metrics import bootstrap_interval
from monai_ext.registration import read_transform

SIZE = (12, 14, 16)
AFFINE = torch.diag(torch.tensor([2.0, -2.0, 3.0, 1.0])).double()
MATRIX = torch.eye(4).double()
MATRIX[2, 3] = 6.0  # the moving scan lies 6 mm higher


def case(name: str, voxels: int = 0, labels: bool = True, points: int = 5) -> dict[str, Any]:
    """A box that lies ``voxels`` further along the first axis in the moving scan, and a displacement that finds it."""
    scans = torch.zeros(2, *SIZE)
    scans[0, 3 + voxels : 6 + voxels, 4:9, 4:9] = torch.rand(3, 5, 5) + 1
    scans[1, 3:6, 4:9, 4:9] = scans[0, 3 + voxels : 6 + voxels, 4:9, 4:9]
    ddf = torch.zeros(3, *SIZE)
    ddf[0] = voxels
    item = {"case": name, "image": MetaTensor(scans, affine=AFFINE), "pred": ddf, "matrix": MATRIX}
    if labels:
        both = (scans > 0).float() * 2
        item |= {"moving_label": both[:1], "fixed_label": both[1:]}
    if points:
        fixed = torch.tensor([[8.0, -12.0, 15.0]]).repeat(points, 1).double()
        item |= {"points": fixed, "truth": fixed + torch.tensor([2.0 * voxels, 0, 6]) + torch.tensor([0, 3, 4])}
    return item


def run(items: list[dict[str, Any]], *handlers: Any, name: str = "") -> Engine:
    """One iteration whose output is these items."""
    engine = Engine(lambda engine, batch: items)
    for handler in handlers:
        handler.attach(engine, name) if name else handler.attach(engine)
    engine.run([0])
    return engine


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_pair_has_its_scores_before_and_after(tmp_path: Path) -> None:
    run([case("b", 2), case("a", 1, labels=False, points=0)], DisplacementScores(tmp_path, body_threshold=0.5))
    first, second = rows(tmp_path / "cases.csv")
    assert (first["case"], second["case"]) == ("a", "b")
    unaligned = np.linalg.norm([4, 3, 10])  # displacement 2 voxels of 2 mm, 6 mm of the matrix, and 3 and 4 mm of error
    found = [float(second[f"tre_{step}_mm"]) for step in ("unaligned", "before", "after")]
    np.testing.assert_allclose(found, [unaligned, np.linalg.norm([4, 3, 4]), 5.0], atol=1e-5)
    assert (float(second["dice_before"]), float(second["dice_after"])) == (pytest.approx(1 / 3), 1.0)
    assert float(second["ncc_after"]) == pytest.approx(1.0, abs=1e-6)
    assert float(second["ncc_before"]) < 0.9
    assert (float(second["folding_percent"]), float(second["sd_log_j"])) == (0, 0)
    assert first["tre_after_mm"] == first["dice_after"] == ""
    assert [(row["case"], row["label"]) for row in rows(tmp_path / "labels.csv")] == [("b", "2")]


def test_the_summary_has_intervals_over_pairs_and_what_changed(tmp_path: Path) -> None:
    items = [case(name, voxels) for name, voxels in (("a", 1), ("b", 2), ("c", 0))]
    engine = run(items, DisplacementScores(tmp_path, seed=3))
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    before = [float(row["tre_before_mm"]) for row in rows(tmp_path / "cases.csv")]
    entry = summary["scores"]["tre_before_mm"]
    assert entry["mean"] == pytest.approx(np.mean(before))
    assert (entry["low"], entry["high"]) == pytest.approx(bootstrap_interval(before, seed=3))
    assert summary["changes"]["tre_mm"]["mean"] == pytest.approx(np.mean([5 - b for b in before]), abs=1e-5)
    assert summary["labels"]["2"]["dice_after"]["n"] == 3
    assert engine.state.metrics["tre_before_mm"] == entry["mean"]


def test_folds_are_counted_inside_the_body_alone(tmp_path: Path) -> None:
    item = case("a")
    item["pred"][0, 4] = 3.0  # inside the box, plane 5 ends before plane 4
    item["pred"][0, 10] = 3.0  # outside
    run([item], DisplacementScores(tmp_path, body_threshold=0.5))
    assert float(rows(tmp_path / "cases.csv")[0]["folding_percent"]) == pytest.approx(100 / 3)


def test_a_pair_that_is_seen_twice_counts_once(tmp_path: Path) -> None:
    engine = run([case("a", 1), case("a", 1), case("b", 2)], DisplacementScores(tmp_path))
    assert len(rows(tmp_path / "cases.csv")) == 2
    assert engine.state.metrics["tre_before_mm"] == pytest.approx(
        np.mean([np.linalg.norm([2, 3, 4]), np.linalg.norm([4, 3, 4])])
    )


def test_an_earlier_comparison_and_labels_do_not_stay(tmp_path: Path) -> None:
    run([case("a", 1)], DisplacementScores(tmp_path / "one"))
    run([case("a", 1)], DisplacementScores(tmp_path / "two", compare_to=tmp_path / "one"))
    paired = json.loads((tmp_path / "two" / "paired.json").read_text(encoding="utf-8"))
    assert {name: entry["verdict"] for name, entry in paired["scores"].items()}["tre_after_mm"] == "equal"
    run([case("a", 1, labels=False)], DisplacementScores(tmp_path / "two"))
    assert not (tmp_path / "two" / "paired.json").exists()
    assert not (tmp_path / "two" / "labels.csv").exists()


def test_another_kind_of_table_is_no_other_run(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,dice\na,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="no rows with points, tre_after_mm"):
        DisplacementScores(tmp_path, compare_to=tmp_path)


def test_points_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    item = {**case("a"), "truth": torch.zeros(4, 3)}
    with pytest.raises(InputError, match=r"a: points and truth must be as many, got \(5, 3\) and \(4, 3\)"):
        run([item], DisplacementScores(tmp_path))


class Echo(nn.Module):
    """Gives the mean of a pair in training, and remembers in which mode it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.modes: list[bool] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return image.mean() * self.weight


class OfLabels(nn.Module):
    """Adds what the target has, so that a test sees that it came."""

    def forward(self, outputs: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        return outputs + sum(value.float().mean() for value in target.values())


def test_the_key_metric_is_the_error_of_pairs_with_points() -> None:
    error = RegistrationError(Echo(), OfLabels())
    engine = run([case("a", 1), case("b", 1, points=0)], error, name="registration_error")
    assert engine.state.metrics["registration_error"] == pytest.approx(5.0, abs=1e-5)


def test_without_any_points_it_is_the_loss_in_training_mode() -> None:
    network, items = Echo().eval(), [case(name, points=0) for name in "ab"]
    engine = run(items, RegistrationError(network, OfLabels()), name="registration_error")
    expected = [float(i["image"].mean() + i["moving_label"].mean() + i["fixed_label"].mean()) for i in items]
    assert engine.state.metrics["registration_error"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert network.modes == [True, True]
    assert not network.training
    with pytest.raises(NotComputableError):
        run(items, RegistrationError(), name="registration_error")


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def save_registration(self, path: str | Path) -> None:
        self.written.append(str(path))


def test_a_bound_part_is_written_with_each_best_epoch_and_no_other() -> None:
    network, trainer = Part(), Engine(lambda engine, batch: None)
    best = {1: 1, 2: 1, 3: 3, 4: 3}
    epochs: list[int] = []

    class Best:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.mark)

        def mark(self, engine: Engine) -> None:
            engine.state.best_model = {"epoch": best[engine.state.epoch]}  # type: ignore[attr-defined]
            epochs.append(len(network.written))

    Best().attach(trainer)
    BoundPart("a.safetensors", network).attach(trainer)
    trainer.run([0], max_epochs=4)
    assert epochs == [0, 1, 1, 2]
    assert network.written == ["a.safetensors"] * 2


def test_pairs_are_drawn_after_a_validation(tmp_path: Path) -> None:
    run([case("a", 1), case("b", 2)], RegistrationOverlays(tmp_path, body_threshold=0.5, cases=2))
    assert (tmp_path / "overlays" / "epoch_0001.png").stat().st_size > 1000


def test_the_inverse_leads_back_and_the_record_comes_last(tmp_path: Path) -> None:
    item, path = case("a", 1), tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(item["image"][0].numpy(), AFFINE.numpy()), path)
    run([{**item, "moving_path": str(path), "fixed_path": str(path)}], SaveRegistrations(tmp_path, 0.5, inverse=True))
    found = json.loads((tmp_path / "a" / "registration.json").read_text(encoding="utf-8"))
    assert sorted(found["files"]) == ["affine.tfm", "inverse.h5", "transform.h5", "warped.nii.gz"]
    assert all((tmp_path / "a" / name).is_file() for name in found["files"])
    forward, inverse = (read_transform(tmp_path / "a" / f"{name}.h5") for name in ("transform", "inverse"))
    points = item["points"]
    torch.testing.assert_close(forward(points), points + torch.tensor([2.0, 0, 6]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(inverse(forward(points)), points, atol=1e-3, rtol=0)
    assert found["inverse_residual_max_mm"] < 0.1
