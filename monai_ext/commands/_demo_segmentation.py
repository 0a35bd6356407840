# SPDX-License-Identifier: Apache-2.0
"""The demo of a bundle that segments: train on one slab of the brain, score on another, ship, report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_ext.commands._bundle import read_json
from monai_ext.commands._demo_places import DemoPlaces, Outcome, Step
from monai_ext.commands._run_step import as_words
from monai_ext.errors import InputError

SAME_DICE = 0.001  # a smaller difference is a few voxels, which another machine may decide otherwise


class SegmentationDemo:
    """Steps and promises of a segmentation bundle.

    What its ``demo.json`` says to this command alone, each of which may be left out:

    - ``demo_datalist``: the data list inside the demo data; the folder's own if it is empty;
    - ``demo_evaluations``: name -> knobs of an evaluation besides the usual one, into eval/<name>;
    - ``demo_not_below``: names of evaluations that must be at least as good as the usual one;
    - ``expected_dice``: class name -> Dice; their mean is what the README promises.

    Args:
        places: the files of the demo.
        wishes: content of ``demo.json``.

    Raises:
        InputError: ``demo_not_below`` names an evaluation that there is not.
    """

    def __init__(self, places: DemoPlaces, wishes: Mapping[str, Any]) -> None:
        self.places = places
        self.datalist: str = wishes.get("demo_datalist", "")
        self.evaluations: dict[str, dict[str, object]] = wishes.get("demo_evaluations", {})
        self.not_below: list[str] = wishes.get("demo_not_below", [])
        self.expected: dict[str, float] = wishes.get("expected_dice", {})
        unknown = set(self.not_below).difference(self.evaluations)
        if unknown:
            raise InputError(
                f"{places.config}: demo_not_below must name entries of demo_evaluations, got {', '.join(unknown)}."
            )

    def steps(self, resolution: int, knobs: dict[str, object]) -> list[Step]:
        """See `DemoPlan`."""
        places, ours, chosen = self.places, ["-m", "monai_ext"], as_words(knobs)
        scans = ["--dataset_dir", str(places.data / self.datalist)]
        volume = str(places.data / "brain" / "image.nii.gz")
        whole = ["--dataset_dir", volume, "--ckpt_path", str(places.models / "model.pt")]
        exported = ["--ckpt", str(places.models / "model.pt"), "--output_dir", str(places.models), "--image", volume]
        report = ["--bundle_root", str(places.bundle), "--output_dir", str(places.scores)]
        scored = ["train.json", "evaluate.json"]
        more = [
            (
                f"evaluation, {name.replace('_', ' ')}",
                places.bundle_run("evaluating", scored, [*scans, *chosen, *as_words(own)], places.scores / name),
            )
            for name, own in self.evaluations.items()
        ]
        return [
            places.data_step(resolution),
            ("training", places.bundle_run("training", ["train.json"], [*scans, *chosen, "--resume", "True"])),
            ("evaluation on the held-out slab", places.bundle_run("evaluating", scored, [*scans, *chosen])),
            *more,
            (
                "export",
                [*ours, "export", str(places.bundle), *exported, "--config_file", str(places.config), *chosen],
            ),
            ("inference of the whole volume", places.bundle_run("inferring", ["inference.json"], [*chosen, *whole])),
            ("report", [*ours, "report", *report, "--output", str(places.report)]),
        ]

    def conclude(self, promised: bool) -> None:
        """See `DemoPlan`."""
        places = self.places
        scores, others = self._scores()
        for label, score in scores.items():
            print(f"  Dice {label:14s} {_side_by_side(label, score, others)}")
        print(f"  report      {places.report}")
        print(f"  label map   {places.scores / 'predictions' / 'image.nii.gz'}")
        print(f"  network     {places.models / 'model.ts'}, {places.models / 'model.onnx'}")
        if promised and self.expected:
            self._compare(scores, others)

    def outcome(self) -> Outcome:
        """See `DemoPlan`."""
        places = self.places
        scores, others = self._scores()
        drawn = sorted((places.scores / "overlays").glob("epoch_*.png"))[-1:]
        return Outcome(
            {f"Dice, {label}": _side_by_side(label, score, others, "; ") for label, score in scores.items()},
            {
                "report": places.report,
                "label map": places.scores / "predictions" / "image.nii.gz",
                "TorchScript": places.models / "model.ts",
                "ONNX": places.models / "model.onnx",
            },
            {
                f"validation slab: image, truth and prediction, {picture.stem.replace('_', ' ')}": picture
                for picture in drawn
            },
        )

    def _scores(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return the Dice of the usual evaluation, and of the others by name."""
        scores = self.places.scores
        return _dice(scores), {name: _dice(scores / name) for name in self.evaluations}

    def _compare(self, scores: dict[str, float], others: dict[str, dict[str, float]]) -> None:
        """Fail if the scores are less than the README promises."""
        mean, wanted = _mean(scores, self.expected), _mean(self.expected, self.expected)
        print(f"  mean Dice of {' and '.join(self.expected)}: {mean:.3f} (promised: at least {wanted:.2f})")
        if mean < wanted:
            raise InputError(f"mean Dice {mean:.3f} is below the promised {wanted:.2f}; please report this as a bug.")
        for name in self.not_below:
            other = _mean(others[name], self.expected)
            if other < mean - SAME_DICE:
                raise InputError(
                    f"mean Dice of {name.replace('_', ' ')} {other:.3f} is below the {mean:.3f} that it promises to "
                    "reach at least; please report this as a bug."
                )


def _dice(folder: Path) -> dict[str, float]:
    """Return the mean Dice of each class in an evaluation's folder."""
    summary = read_json(folder / "summary.json")
    return {item["name"]: item["metrics"]["dice"]["mean"] for item in summary["classes"]}


def _side_by_side(label: str, score: float, others: Mapping[str, Mapping[str, float]], between: str = "   ") -> str:
    beside = [f"{name.replace('_', ' ')} {other[label]:.3f}" for name, other in others.items()]
    return between.join([f"{score:.3f}", *beside])


def _mean(scores: Mapping[str, float], labels: Iterable[str]) -> float:
    values = [scores[label] for label in labels]
    return sum(values) / len(values)
