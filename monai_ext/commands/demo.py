# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext demo`: a bundle from data to report, on a real brain, on two cores."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from monai_ext.commands._bundle import find_bundle, read_json
from monai_ext.commands._run_step import as_words, bundle_words, run_step
from monai_ext.errors import InputError

SAME_DICE = 0.001  # a smaller difference is a few voxels, which another machine may decide otherwise
FIRST = "sam2_unet"  # the bundle of the README's first command


@dataclass(frozen=True)
class _Places:
    bundle: Path
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> Path:
        return self.root / self.bundle.name

    @property
    def scores(self) -> Path:
        return self.run / "eval"

    @property
    def models(self) -> Path:
        return self.run / "models"

    @property
    def report(self) -> Path:
        # demos of several bundles may share the folder and its data
        return self.root / ("report.html" if self.bundle.name == FIRST else f"report_{self.bundle.name}.html")


@dataclass(frozen=True)
class _Wishes:
    """What a bundle's ``demo.json`` says to this command alone; each may be left out.

    Attributes:
        datalist: ``demo_datalist``, the data list inside the demo data; the folder's own if it is empty.
        evaluations: ``demo_evaluations``, name -> knobs of an evaluation besides the usual one, into eval/<name>.
        not_below: ``demo_not_below``, names of evaluations that must be at least as good as the usual one.
        expected: ``expected_dice``, class name -> Dice; their mean is what the README promises.
    """

    datalist: str
    evaluations: dict[str, dict[str, object]]
    not_below: list[str]
    expected: dict[str, float]


def demo(name: str = "sam2_unet", output_dir: str = "demo", resolution: int = 1, **knobs: object) -> None:
    """Train, evaluate, export, infer and report a bundle on the MNI152 brain; nothing is downloaded.

    Run it again after an interruption and it goes on where it stopped.

    Args:
        name: bundle, by name or path.
        output_dir: folder for the data, the models, the predictions and the report.
        resolution: voxel size of the brain in mm: 1, 2 or 4.
        **knobs: any knob of the bundle's configs, e.g. --max_epochs 2.

    Example:
        python -m monai_ext demo --output_dir demo
    """
    places = _Places(find_bundle(name), Path(output_dir).absolute())
    wishes = _read_wishes(places.bundle / "configs" / "demo.json")
    started = time.monotonic()
    for title, words in _steps(places, wishes, resolution, knobs):
        run_step(title, words, "demo")
    print(f"\nall done in {(time.monotonic() - started) / 60:.1f} minutes")
    _conclude(places, wishes, promised=resolution == 1 and not knobs)


def _read_wishes(file: Path) -> _Wishes:
    content = read_json(file)
    wishes = _Wishes(
        content.get("demo_datalist", ""),
        content.get("demo_evaluations", {}),
        content.get("demo_not_below", []),
        content.get("expected_dice", {}),
    )
    unknown = set(wishes.not_below).difference(wishes.evaluations)
    if unknown:
        raise InputError(f"{file}: demo_not_below must name entries of demo_evaluations, got {', '.join(unknown)}.")
    return wishes


def _steps(places: _Places, wishes: _Wishes, resolution: int, knobs: dict[str, object]) -> list[tuple[str, list[str]]]:
    """Return each step's title and what python is to run."""
    ours = ["-m", "monai_ext"]
    chosen = as_words(knobs)
    scans = ["--dataset_dir", str(places.data / wishes.datalist)]
    volume = str(places.data / "brain" / "image.nii.gz")
    whole = ["--dataset_dir", volume, "--ckpt_path", str(places.models / "model.pt")]
    config = ["--config_file", str(places.bundle / "configs" / "demo.json")]
    exported = ["--ckpt", str(places.models / "model.pt"), "--output_dir", str(places.models), "--image", volume]
    report = ["--bundle_root", str(places.bundle), "--output_dir", str(places.scores)]
    scored = ["train.json", "evaluate.json"]
    more = [
        (
            f"evaluation, {name.replace('_', ' ')}",
            _bundle_run(places, "evaluating", scored, [*scans, *chosen, *as_words(own)], places.scores / name),
        )
        for name, own in wishes.evaluations.items()
    ]
    return [
        ("data", [*ours, "demo_data", "--output_dir", str(places.data), "--resolution", str(resolution)]),
        ("training", _bundle_run(places, "training", ["train.json"], [*scans, *chosen, "--resume", "True"])),
        ("evaluation on the held-out slab", _bundle_run(places, "evaluating", scored, [*scans, *chosen])),
        *more,
        ("export", [*ours, "export", str(places.bundle), *exported, *config, *chosen]),
        ("inference of the whole volume", _bundle_run(places, "inferring", ["inference.json"], [*chosen, *whole])),
        ("report", [*ours, "report", *report, "--output", str(places.report)]),
    ]


def _bundle_run(
    places: _Places, run_id: str, files: list[str], more: list[str], output_dir: Path | None = None
) -> list[str]:
    words = bundle_words(places.bundle, run_id, [*files, "demo.json"])
    words += ["--output_dir", str(output_dir or places.scores), "--ckpt_dir", str(places.models)]
    return [*words, *more]


def _conclude(places: _Places, wishes: _Wishes, promised: bool) -> None:
    """Print what came out, and fail if it is less than the README promises."""
    scores = _dice(places.scores)
    others = {name: _dice(places.scores / name) for name in wishes.evaluations}
    for label, score in scores.items():
        beside = "".join(f"   {name.replace('_', ' ')} {other[label]:.3f}" for name, other in others.items())
        print(f"  Dice {label:14s} {score:.3f}{beside}")
    print(f"  report      {places.report}")
    print(f"  label map   {places.scores / 'predictions' / 'image.nii.gz'}")
    print(f"  network     {places.models / 'model.ts'}, {places.models / 'model.onnx'}")
    if not promised or not wishes.expected:
        return
    mean, wanted = _mean(scores, wishes.expected), _mean(wishes.expected, wishes.expected)
    print(f"  mean Dice of {' and '.join(wishes.expected)}: {mean:.3f} (promised: at least {wanted:.2f})")
    if mean < wanted:
        raise InputError(f"mean Dice {mean:.3f} is below the promised {wanted:.2f}; please report this as a bug.")
    for name in wishes.not_below:
        other = _mean(others[name], wishes.expected)
        if other < mean - SAME_DICE:
            raise InputError(
                f"mean Dice of {name.replace('_', ' ')} {other:.3f} is below the {mean:.3f} that it promises to "
                "reach at least; please report this as a bug."
            )


def _dice(folder: Path) -> dict[str, float]:
    """Return the mean Dice of each class in an evaluation's folder."""
    summary = read_json(folder / "summary.json")
    return {item["name"]: item["metrics"]["dice"]["mean"] for item in summary["classes"]}


def _mean(scores: dict[str, float], labels: Iterable[str]) -> float:
    values = [scores[label] for label in labels]
    return sum(values) / len(values)
