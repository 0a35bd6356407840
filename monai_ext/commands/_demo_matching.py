# SPDX-License-Identifier: Apache-2.0
"""The demo of a bundle that matches points: learn from one scan, find known points in others, before and after."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ext.commands._bundle import read_json
from monai_ext.commands._demo_places import DemoPlaces, Outcome, Step
from monai_ext.commands._run_step import as_words
from monai_ext.errors import InputError
from monai_ext.files import atomic_write

if TYPE_CHECKING:
    from monai_ext.report.match_picture import DrawnMatches

UNTRAINED = "untrained"


class MatchingDemo:
    """Steps and promises of a bundle that matches points.

    What its ``demo.json`` says to this command alone, each of which may be left out:

    - ``demo_evaluations``: name -> knobs of an evaluation besides the usual one, into eval/<name>. The one named
      ``untrained`` is run before training, and what training gains is measured against it;
    - ``expected_error_mm``: case -> largest mean error in mm of the usual evaluation;
    - ``expected_gain``: case -> smallest share by which its mean error is below that of ``untrained``.

    Args:
        places: the files of the demo.
        wishes: content of ``demo.json``.

    Raises:
        InputError: a gain is expected, and no evaluation is named ``untrained``.
    """

    def __init__(self, places: DemoPlaces, wishes: Mapping[str, Any]) -> None:
        self.places, self.wishes = places, wishes
        self.evaluations: dict[str, dict[str, object]] = wishes.get("demo_evaluations", {})
        self.expected: dict[str, float] = wishes.get("expected_error_mm", {})
        self.gains: dict[str, float] = wishes.get("expected_gain", {})
        if self.gains and UNTRAINED not in self.evaluations:
            raise InputError(f"{places.config}: expected_gain needs an entry {UNTRAINED!r} in demo_evaluations.")

    def steps(self, resolution: int, knobs: dict[str, object]) -> list[Step]:
        """See `DemoPlan`."""
        places, ours, chosen = self.places, ["-m", "monai_ext"], as_words(knobs)
        scans = ["--dataset_dir", str(places.data / "scans.json")]
        volume, weights = str(places.data / "brain" / "image.nii.gz"), str(places.models / "model.pt")
        exported = ["--ckpt", weights, "--output_dir", str(places.models), "--image", volume]
        later = [self._evaluation(name, chosen) for name in self.evaluations if name != UNTRAINED]
        return [
            places.data_step(resolution),
            *[self._evaluation(name, chosen) for name in self.evaluations if name == UNTRAINED],
            ("training", places.bundle_run("training", ["train.json"], [*scans, *chosen, "--resume", "True"])),
            self._evaluation("", chosen),
            *later,
            (
                "export",
                [*ours, "export", str(places.bundle), *exported, "--config_file", str(places.config), *chosen],
            ),
            ("matching of the follow-up", [*ours, "match", *self._followup(weights, knobs)]),
        ]

    def conclude(self, promised: bool) -> None:
        """See `DemoPlan`."""
        places = self.places
        errors, others = self._scores()
        print("  mean error in mm over all points of a pair")
        for case in self._cases():
            print(f"  {case:14s} {_side_by_side(case, errors, others)}")
        print(f"  report      {places.report}")
        for pair in self._cases().values():
            print(f"  picture     {_draw(places, pair)}")
        print(f"  network     {places.models / 'model.ts'}, {places.models / 'model.onnx'}")
        if promised:
            self._compare(errors, others)

    def outcome(self) -> Outcome:
        """See `DemoPlan`."""
        places = self.places
        errors, others = self._scores()
        return Outcome(
            {f"mean error in mm, {case}": _side_by_side(case, errors, others, "; ") for case in self._cases()},
            {
                "report": places.report,
                "points found": places.run / "followup_found.csv",
                "TorchScript": places.models / "model.ts",
                "ONNX": places.models / "model.onnx",
            },
            {f"the pair {case}": _picture(places, case) for case in self._cases()},
        )

    def _cases(self) -> dict[str, dict[str, str]]:
        """Return the pairs with known points, by their names."""
        return {item["case"]: item for item in read_json(self.places.data / "pairs.json")["test"]}

    def _scores(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return the errors of the usual evaluation, and of the others by name."""
        scores = self.places.scores
        return _errors(scores), {name: _errors(scores / name) for name in self.evaluations}

    def _evaluation(self, name: str, chosen: list[str]) -> Step:
        """Return the usual evaluation, or one with a name of its own."""
        places = self.places
        pairs = ["--dataset_dir", str(places.data / "pairs.json")]
        more = [*pairs, *chosen, *as_words(self.evaluations.get(name, {}))]
        words = places.bundle_run("evaluating", ["train.json", "evaluate.json"], more, places.scores / name)
        return f"evaluation, {name.replace('_', ' ')}" if name else "evaluation on pairs with known points", words

    def _followup(self, weights: str, knobs: Mapping[str, object]) -> list[str]:
        """Return what the command that matches is told: it takes knobs of ``inference.json`` alone."""
        places, pair = self.places, self.places.data / "followup"
        known = read_json(places.bundle / "configs" / "inference.json")
        chosen = {key: value for key, value in {**self.wishes, **knobs}.items() if key in known and key[0] != "_"}
        return [
            *("--bundle_root", str(places.bundle), "--ckpt_path", weights),
            *("--fixed", str(pair / "baseline.nii.gz"), "--moving", str(pair / "followup.nii.gz")),
            *("--points", str(pair / "baseline_points.csv"), "--output", str(places.run / "followup_found.csv")),
            *("--report", str(places.report), *as_words(chosen)),
        ]

    def _compare(self, errors: dict[str, float], others: dict[str, dict[str, float]]) -> None:
        """Fail if the errors are more, or what training gained is less, than the README promises."""
        for case, most in self.expected.items():
            print(f"  {case}: {errors[case]:.2f} mm (promised: at most {most:.2f})")
            if errors[case] > most:
                raise InputError(
                    f"mean error {errors[case]:.2f} mm on {case} is above the promised {most:.2f}; "
                    "please report this as a bug."
                )
        for case, least in self.gains.items():
            gain = 1 - errors[case] / others[UNTRAINED][case]
            print(f"  {case}: {gain:.0%} below the untrained network (promised: at least {least:.0%})")
            if gain < least:
                raise InputError(
                    f"mean error on {case} is {gain:.0%} below that of the untrained network, less than the promised "
                    f"{least:.0%}; please report this as a bug."
                )


def _errors(folder: Path) -> dict[str, float]:
    """Return the mean error in mm of each case in an evaluation's folder."""
    return {row["case"]: float(row["error_mm"]) for row in _rows(folder / "cases.csv")}


def _side_by_side(
    case: str, errors: Mapping[str, float], others: Mapping[str, Mapping[str, float]], between: str = "   "
) -> str:
    beside = [f"{name.replace('_', ' ')} {other[case]:.2f}" for name, other in others.items()]
    return between.join([f"{errors[case]:.2f}", *beside])


def _picture(places: DemoPlaces, case: str) -> Path:
    return places.run / f"matches_{case}.png"


def _draw(places: DemoPlaces, pair: Mapping[str, str]) -> Path:
    """Draw what was found in a pair, and return the picture's path."""
    from monai_ext.report.match_picture import match_picture

    target = _picture(places, pair["case"])
    fixed, moving = (places.data / pair[key] for key in ("fixed", "moving"))
    with atomic_write(target) as temporary:
        match_picture(fixed, moving, _matches(places.scores / "points.csv", pair["case"])).save(temporary)
    return target


def _matches(file: Path, case: str) -> DrawnMatches:
    """Return the points of a case in an evaluation's table of points."""
    import numpy as np

    from monai_ext.report.match_picture import DrawnMatches

    rows = [row for row in _rows(file) if row["case"] == case]
    return DrawnMatches(*(
        np.array([[float(row[f"{kind}_{axis}_ras_mm"]) for axis in "xyz"] for row in rows])
        for kind in ("fixed", "true", "found")
    ))  # fmt: skip


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with open(file, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); run the demo again.") from error
