# SPDX-License-Identifier: Apache-2.0
"""Scores every registered pair of an evaluation and writes the tables that a reader and a statistician open."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_ext.distributed import is_main
from monai_ext.errors import InputError
from monai_ext.files import write_json
from monai_ext.handlers._registration_case import Row, registration_cases
from monai_ext.handlers._results import gather
from monai_ext.metrics.displacement_summary import SCORES, summarize_displacements
from monai_ext.metrics.paired_tests import compare_cases
from monai_ext.metrics.summary import BOOTSTRAP_LEVEL
from monai_ext.tables import write_table

logger = logging.getLogger(__name__)

COMPARED = ("tre_after_mm", "dice_after", "ncc_after")
CONVENTIONS = {
    "before": "the moving scan where the first affine map (prealign) puts it; unaligned: where it lies.",
    "after": "as the network displaces it from there.",
    "tre": "mm between where a point of the fixed scan is taken and where it is in the moving one; mean of a pair.",
    "dice": "of each label that both scans have, the moving one's read at the nearest voxel; mean of a pair's labels.",
    "ncc": "correlation coefficient of the intensities inside the fixed scan's body.",
    "folding_percent": "voxels of the body whose Jacobian determinant is at most 0, by forward differences.",
    "sd_log_j": "standard deviation of the logarithm of the determinant in the body.",
}
Entry = tuple[tuple[str, ...], Row, list[Row]]


class DisplacementScores:
    """Handler for an evaluator that registers pairs: a table of pairs, one of labels, a summary, and metrics.

    After each epoch of the evaluator, ``cases.csv`` (a row per pair), ``labels.csv`` (a row per pair and label, where
    there are labels) and ``summary.json`` (`monai_ext.metrics.summarize_displacements`, with 95 % bootstrap intervals
    over pairs) are written. The engine gets the mean of each score that there is: ``tre_unaligned_mm``,
    ``tre_before_mm``, ``tre_after_mm``, ``dice_before``, ``dice_after``, ``ncc_before``, ``ncc_after``,
    ``folding_percent`` and ``sd_log_j``. With several processes each attaches it: pairs are gathered, one that two
    processes saw counts once, all get the same metrics, and the first writes.

    The engine's output (or else its batch) has for each pair ``pred``, the displacement (axes, *spatial) in voxels, and
    what `monai_ext.data.RegistrationPairDataset` gives.

    With ``compare_to``, ``paired.json`` compares the run with another, pair by pair.

    Args:
        output_dir: folder for the files.
        body_threshold: the body is where the fixed scan is above it, and what that encloses; None: all is.
        bootstrap_samples: how many times pairs are drawn for an interval.
        seed: of the bootstrap.
        compare_to: folder of another evaluation, or its ``cases.csv``.

    Raises:
        InputError: by the run, for a pair without any body; here, when ``compare_to`` cannot be read.

    Example:
        >>> import tempfile
        >>> import torch
        >>> item = {"image": torch.rand(2, 4, 4, 4), "pred": torch.zeros(3, 4, 4, 4)}
        >>> item |= {"points": torch.ones(1, 3), "truth": torch.tensor([[1.0, 1.0, 3.0]])}
        >>> evaluator = Engine(lambda engine, batch: [item])
        >>> DisplacementScores(tempfile.mkdtemp()).attach(evaluator)
        >>> evaluator.run([0]).metrics["tre_after_mm"]
        2.0
    """

    def __init__(
        self,
        output_dir: str | Path,
        body_threshold: float | None = None,
        bootstrap_samples: int = 1000,
        seed: int = 0,
        compare_to: str | Path | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.body_threshold = body_threshold
        self.bootstrap_samples = bootstrap_samples
        self.seed = seed
        self.compare_to = None if compare_to is None else Path(compare_to)
        self._other_rows = [] if self.compare_to is None else _read_other(self.compare_to)
        self._entries: list[Entry] = []

    def attach(self, engine: Engine) -> None:
        """Score after each iteration, write after each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._entries = []

    def _score(self, engine: Engine) -> None:
        for case in registration_cases(engine):
            dice = case.dice()
            labels = [
                {"case": case.name, "label": label, "dice_before": dice["before"][label], "dice_after": after}
                for label, after in dice.get("after", {}).items()
            ]
            self._entries.append((case.identity(len(self._entries)), case.row(self.body_threshold), labels))

    def _finish(self, engine: Engine) -> None:
        entries = {identity: (row, labels) for identity, row, labels in gather(self._entries)}
        ordered = [entries[identity] for identity in sorted(entries)]
        rows, labels = [row for row, _ in ordered], [label for _, some in ordered for label in some]
        if not rows:
            return
        summary = summarize_displacements(rows, labels, self.bootstrap_samples, self.seed)
        scores: Any = summary["scores"]
        means = {name: scores[name]["mean"] for name in SCORES}
        engine.state.metrics.update({name: mean for name, mean in means.items() if mean is not None})
        if is_main():
            self._write(rows, labels, summary)
            logger.info(
                "%d pairs: %s: %s",
                len(rows), ", ".join(f"{name} {mean:.4g}" for name, mean in means.items() if mean is not None),
                self.output_dir / "cases.csv",
            )  # fmt: skip

    def _write(self, rows: Sequence[Row], labels: Sequence[Row], summary: Mapping[str, Any]) -> None:
        write_table(self.output_dir / "cases.csv", tuple(rows[0]), rows)
        (self.output_dir / "labels.csv").unlink(missing_ok=True)  # of an earlier evaluation
        if labels:
            write_table(self.output_dir / "labels.csv", tuple(labels[0]), labels)
        bootstrap = {"samples": self.bootstrap_samples, "seed": self.seed, "level": BOOTSTRAP_LEVEL}
        told = {**CONVENTIONS, "body_threshold": self.body_threshold, "bootstrap": bootstrap}
        write_json(self.output_dir / "summary.json", {**summary, "conventions": told})
        (self.output_dir / "paired.json").unlink(missing_ok=True)
        if self.compare_to is not None:
            write_json(self.output_dir / "paired.json", {"other": str(self.compare_to), "scores": self._compared(rows)})

    def _compared(self, rows: Sequence[Row]) -> dict[str, Any]:
        found = {}
        for score in COMPARED:
            ours, theirs = (
                [_comparable(r) for r in each if r[score] not in (None, "")] for each in (rows, self._other_rows)
            )
            if ours and theirs:
                found[score] = compare_cases(ours, theirs, score, None, self.bootstrap_samples, self.seed)
        return found


def _comparable(row: Row) -> Row:
    """Return a row as for a segmentation of one class, whose size is the number of points."""
    return {**row, "class": 1, "truth_voxels": row["points"]}


def _read_other(compare_to: Path) -> list[Row]:
    path = compare_to / "cases.csv" if compare_to.is_dir() else compare_to
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows: list[Row] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); set compare_to to the folder of another run.") from error
    missing = [name for name in ("case", "points", *COMPARED) if not rows or name not in rows[0]]
    if missing:
        raise InputError(
            f"{path}: no rows with {', '.join(missing)}; set compare_to to the folder of another run of registration."
        )
    return rows
