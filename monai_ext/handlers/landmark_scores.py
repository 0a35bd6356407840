# SPDX-License-Identifier: Apache-2.0
"""Scores every point of an evaluation of matching and writes the tables that a reader and a statistician open."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_ext.distributed import is_main
from monai_ext.errors import InputError
from monai_ext.files import write_json
from monai_ext.handlers._landmark_case import POINT_COLUMNS, LandmarkCase, Row, landmark_cases
from monai_ext.handlers._landmark_files import compare_landmarks, read_other_cases
from monai_ext.handlers._results import gather
from monai_ext.matching import PointMatcher
from monai_ext.metrics.landmark_summary import SHARES, case_landmarks, cpm_name, summarize_landmarks
from monai_ext.metrics.landmarks import AXES
from monai_ext.metrics.summary import BOOTSTRAP_LEVEL
from monai_ext.tables import write_table

logger = logging.getLogger(__name__)

CASE_COLUMNS = ("case", "image", "reference", "site", "subject")
MATCHER_SETTINGS = ("mode", "query", "refine", "min_score", "max_cycle_mm")
CONVENTIONS = {
    "space": "RAS",
    "units": "mm",
    "axes": {axis: name.replace("_", "-") for axis, name in zip("xyz", AXES, strict=True)},
    "error_mm": "Euclidean distance between the found and the true place; its mean over points is the MED.",
    "cpm_radius": "Share of points with a distance of at most their lesion's radius; without a radius left out.",
    "hit_in_box": (
        "Share of points found inside their lesion's 3-D box, faces included, as published for CPM@Radius; "
        "without a box left out."
    ),
    "abstained": "Points that were not accepted count in 'all' by their best guess, and not in 'accepted'.",
    "interval_over": (
        "cases: whole cases were drawn with all their points. points: of the one case its points were drawn, which "
        "says nothing about other cases."
    ),
}
LandmarkEntry = tuple[tuple[str, ...], LandmarkCase]


class LandmarkScores:
    """Handler for an evaluator that matches points: a table of points, one of cases, a summary, and metrics.

    After each epoch of the evaluator, ``points.csv`` (a row per point), ``cases.csv`` (a row per pair of scans) and
    ``summary.json`` (`monai_ext.metrics.summarize_landmarks`: all points, and those accepted with their share, with
    95 % bootstrap intervals) are written. The engine gets the metrics ``error_mm`` (mean over all points),
    ``cpm_10mm``, ``cpm_radius``, ``hit_in_box``, ``cycle_error_mm``, ``coverage`` and ``accepted_error_mm``, those
    that there are. With several processes each attaches it: cases are gathered, one that two processes saw counts
    once, all get the same metrics, and the first writes.

    The engine's output (or else its batch) has for each case ``pred``, the `monai_ext.matching.MatchedPoints` in the
    moving scan, ``points`` (N, axes), the same points in the fixed scan, ``truth`` (N, axes), their true places in
    the moving scan, all in RAS mm; and, where there are any, ``point_names``, ``radius`` (N,) of the lesions in mm and
    ``boxes`` (N, 2, axes), two corners in RAS mm (NaN where one is not known), ``case``, ``image`` (moving) and
    ``reference`` (fixed), for their paths.

    With ``compare_to``, ``paired.json`` compares the run with another, case by case
    (`monai_ext.metrics.compare_cases`).

    Args:
        output_dir: folder for the files.
        hit_mm: limit of the CPM in mm.
        bootstrap_samples: how many times cases are drawn for an interval.
        seed: of the bootstrap.
        matcher: what found the points, for the record.
        compare_to: folder of another evaluation, or its ``cases.csv``.

    Raises:
        InputError: by the run, for a case without truth or with places that are not finite; here, when
            ``compare_to`` cannot be read.
        ValueError: when ``hit_mm`` is not positive.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai_ext.matching import MatchedPoints
        >>> one, no = torch.ones(1), torch.zeros(1, dtype=torch.bool)
        >>> found = MatchedPoints(torch.tensor([[0.0, 3.0, 4.0]]), one, one, one, one, ~no, no, one, ("",))
        >>> item = {"pred": found, "points": torch.zeros(1, 3), "truth": torch.zeros(1, 3)}
        >>> evaluator = Engine(lambda engine, batch: [item])
        >>> LandmarkScores(tempfile.mkdtemp()).attach(evaluator)
        >>> evaluator.run([0]).metrics["cpm_10mm"]
        1.0
    """

    def __init__(
        self,
        output_dir: str | Path,
        hit_mm: float = 10.0,
        bootstrap_samples: int = 1000,
        seed: int = 0,
        matcher: PointMatcher | None = None,
        compare_to: str | Path | None = None,
    ) -> None:
        if not hit_mm > 0:
            raise ValueError(f"hit_mm must be positive, got {hit_mm}.")
        self.output_dir = Path(output_dir)
        self.hit_mm = hit_mm
        self.bootstrap_samples = bootstrap_samples
        self.seed = seed
        self.matcher = matcher
        self.compare_to = None if compare_to is None else Path(compare_to)
        self._cpm = cpm_name(hit_mm)
        self._other_rows = [] if self.compare_to is None else read_other_cases(self.compare_to, self._cpm)
        self._cases: list[LandmarkEntry] = []

    def attach(self, engine: Engine) -> None:
        """Score after each iteration, write after each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._cases = []

    def _score(self, engine: Engine) -> None:
        for case in landmark_cases(engine):
            self._cases.append((case.identity(len(self._cases)), case))

    def _finish(self, engine: Engine) -> None:
        # the last of those with one identity
        cases = [case for _, case in sorted(dict(gather(self._cases)).items(), key=lambda entry: entry[0])]
        names = _names(cases)
        rows = [{"case": name, **row} for name, case in zip(names, cases, strict=True) for row in case.rows]
        if not rows:
            return
        summary = summarize_landmarks(rows, self.hit_mm, self.bootstrap_samples, self.seed)
        engine.state.metrics.update(self._engine_metrics(summary))
        if is_main():
            self._write(rows, self._case_rows(names, cases), summary)

    def _case_rows(self, names: list[str], cases: list[LandmarkCase]) -> list[Row]:
        return [
            {
                **{"case": name, "image": case.image, "reference": case.reference},
                **{"site": case.site, "subject": case.subject},
                **case_landmarks(case.rows, self.hit_mm),
            }
            for name, case in zip(names, cases, strict=True)
        ]

    def _engine_metrics(self, summary: Mapping[str, Any]) -> dict[str, float]:
        wanted = {name: summary["all"][name] for name in ("error_mm", self._cpm, *SHARES, "cycle_error_mm")}
        wanted |= {"coverage": summary["coverage"], "accepted_error_mm": summary["accepted"]["error_mm"]}
        return {name: entry["mean"] for name, entry in wanted.items() if entry["mean"] is not None}

    def _conventions(self) -> dict[str, Any]:
        return {
            **CONVENTIONS,
            "hit_mm": self.hit_mm,
            "matcher": self.matcher and {name: getattr(self.matcher, name) for name in MATCHER_SETTINGS},
            "bootstrap": {"samples": self.bootstrap_samples, "seed": self.seed, "level": BOOTSTRAP_LEVEL},
        }

    def _write(self, rows: list[Row], case_rows: list[Row], summary: dict[str, Any]) -> None:
        write_table(self.output_dir / "points.csv", ("case", *POINT_COLUMNS), rows)
        write_table(self.output_dir / "cases.csv", tuple(case_rows[0]), case_rows)
        write_json(self.output_dir / "summary.json", {**summary, "conventions": self._conventions()})
        self._write_paired(case_rows)
        error, accepted = summary["all"]["error_mm"], summary["accepted"]["error_mm"]
        logger.info(
            "%d points of %d cases: mean error %.2f mm, within %g mm %.1f %%; %.1f %% accepted%s: %s",
            summary["points"], summary["cases"], error["mean"], self.hit_mm,
            100 * summary["all"][self._cpm]["mean"], 100 * summary["coverage"]["mean"],
            "" if accepted["mean"] is None else f", their mean error {accepted['mean']:.2f} mm",
            self.output_dir / "points.csv",
        )  # fmt: skip

    def _write_paired(self, case_rows: list[Row]) -> None:
        path = self.output_dir / "paired.json"
        if self.compare_to is None:
            path.unlink(missing_ok=True)  # of an earlier evaluation
            return
        try:
            found = compare_landmarks(case_rows, self._other_rows, self._cpm, self.bootstrap_samples, self.seed)
        except InputError as error:
            raise InputError(f"{self.compare_to}: {error}") from error
        write_json(path, {"other": str(self.compare_to), **found})


def _names(cases: list[LandmarkCase]) -> list[str]:
    """Give every case a name of its own."""
    names: list[str] = []
    for number, case in enumerate(cases, start=1):
        base = name = case.name or f"case_{number:04d}"
        count = 1
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names
