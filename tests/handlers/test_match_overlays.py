# SPDX-License-Identifier: Apache-2.0
"""Pairs with their points are drawn after a validation, as a file and into TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from monai_ext.handlers import MatchOverlays
from monai_ext.matching import MatchedPoints
from monai_ext.report.match_picture import DrawnMatches, match_picture

TURNED = np.array([[0.0, -3.0, 0.0, 60.0], [0.0, 0.0, 4.0, -70.0], [5.0, 0.0, 0.0, -40.0], [0.0, 0.0, 0.0, 1.0]])
PLACES = torch.tensor([[10.0, 20.0, 30.0], [-20.0, 5.0, 10.0], [0.0, -15.0, -5.0]])


def scan(seed: int) -> MetaTensor:
    voxels = torch.rand(1, 20, 30, 32, generator=torch.Generator().manual_seed(seed))
    return MetaTensor(voxels, affine=torch.from_numpy(TURNED))


def pair(**more: Any) -> dict[str, Any]:
    one, no = torch.ones(3), torch.zeros(3, dtype=torch.bool)
    found = MatchedPoints(PLACES + 3, one, one, one, one, ~no, no, one, ("",) * 3)
    return {"image": scan(0), "reference": scan(1), "points": PLACES, "truth": PLACES + 1, "pred": found, **more}


def validated(overlays: MatchOverlays, *pairs: dict[str, Any], epochs: int = 1) -> MatchOverlays:
    evaluator = Engine(lambda engine, batch: batch)
    overlays.attach(evaluator)
    evaluator.run([[item] for item in pairs], max_epochs=epochs)
    return overlays


def test_the_picture_is_that_of_the_scans_files_and_pairs_lie_below_each_other(tmp_path: Path) -> None:
    validated(MatchOverlays(tmp_path), pair(), pair(), pair())
    drawn = np.asarray(Image.open(tmp_path / "overlays" / "epoch_0001.png"))
    for name, seed in (("moving", 0), ("fixed", 1)):
        nib.save(nib.Nifti1Image(scan(seed)[0].numpy(), TURNED), tmp_path / f"{name}.nii")
    matches = DrawnMatches(*(places.double().numpy() for places in (PLACES, PLACES + 1, PLACES + 3)))
    expected = np.asarray(match_picture(tmp_path / "fixed.nii", tmp_path / "moving.nii", matches))
    np.testing.assert_array_equal(drawn, np.concatenate([expected, expected]))  # two of the three


def test_only_epochs_of_the_interval_are_drawn(tmp_path: Path) -> None:
    validated(MatchOverlays(tmp_path, interval=2, cases=1, slices=1), pair(), epochs=4)
    assert sorted(p.name for p in (tmp_path / "overlays").iterdir()) == ["epoch_0002.png", "epoch_0004.png"]


def test_tensorboard_gets_the_picture(tmp_path: Path) -> None:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason='pip install "monai-ext[tracking]"'
    )
    overlays = validated(MatchOverlays(tmp_path, cases=1, slices=1, log_dir=tmp_path / "log"), pair())
    assert overlays._writer is not None
    overlays._writer.close()
    events = reading.EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    (image,) = events.Images("overlays")
    assert (image.width, image.height) == Image.open(tmp_path / "overlays" / "epoch_0001.png").size


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"truth": None}, "truth"),
        ({"points": torch.zeros(3, 2)}, "must be"),
        ({"image": torch.zeros(1, 4, 4)}, "place in the world"),
    ],
    ids=["nothing-is-known", "a-picture-s-points", "no-volume"],
)
def test_what_cannot_be_drawn_is_told_and_costs_no_training(
    more: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {name: value for name, value in pair(**more).items() if value is not None}
    validated(MatchOverlays(tmp_path), asked)
    assert not (tmp_path / "overlays").exists()
    assert "not drawn" in caplog.text
    assert why in caplog.text


@pytest.mark.parametrize("knob", ["interval", "cases", "slices"])
def test_numbers_below_one_are_refused(knob: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MatchOverlays("eval", **{knob: 0})
