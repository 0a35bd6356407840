# SPDX-License-Identifier: Apache-2.0
"""Scores an evaluation on photographs and endoscopy as the papers on salient and camouflaged objects do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_ext.distributed import is_main, rank
from monai_ext.errors import InputError
from monai_ext.files import write_json
from monai_ext.handlers._results import gather, results_of
from monai_ext.metrics.bootstrap import summary_statistics
from monai_ext.metrics.saliency import SALIENCY_SCORES, STRETCHES, Stretch, saliency_scores
from monai_ext.tables import write_table

logger = logging.getLogger(__name__)

COLUMNS = ("case", "image", "label", "site", "subject", *SALIENCY_SCORES, "false_alarm")
CONVENTIONS = {
    "mean_dice": "Mean over the 256 thresholds 0/255 to 255/255 and over images; not the Dice of a mask.",
    "dice_at_half": "Dice of the mask where the unstretched probability is above 0.5.",
    "empty_images": (
        "Images without an object are left out of every mean here; their mean absolute error and the share of "
        "pixels wrongly above 0.5 (false_alarm) are given apart."
    ),
}
Row = dict[str, Any]


class SaliencyScores:
    """Handler for an evaluator of 2-D images: S-measure, weighted F, E-measure, MAE, mDice, mIoU, and Dice at 0.5.

    After each epoch of the evaluator ``saliency.csv`` (a row per image) and ``saliency.json`` (means with 95 %
    bootstrap intervals) are written, and the engine gets the metrics ``saliency_s_measure``,
    ``saliency_mean_dice`` and so on. With several processes each attaches it; see `CaseScores`.

    The engine's output is probabilities (1, H, W) of the object, and ``label`` (1, H, W). To have `CaseScores` in
    the same evaluation, which needs label maps, let the postprocessing copy ``pred`` to ``probability`` before it
    is thresholded (``CopyItemsd``), and name that key here.

    Args:
        output_dir: folder for the two files.
        stretch: "none", or "paper" for the published stretch of each map to [0, 1]; see
            `monai_ext.metrics.saliency_scores`.
        bootstrap_samples: how many times images are drawn for the interval.
        seed: of the bootstrap.
        pred_key: key of the probabilities in the engine's output.

    Raises:
        InputError: for an unknown ``stretch``; by the run, for a prediction that is no map of probabilities.
        ImportError: by the run, when the extra ``saliency`` is not installed.

    Example:
        >>> SaliencyScores("eval", stretch="none").attach(Engine(lambda engine, batch: batch))
    """

    def __init__(
        self,
        output_dir: str | Path,
        stretch: Stretch = "none",
        bootstrap_samples: int = 1000,
        seed: int = 0,
        pred_key: str = "pred",
    ) -> None:
        if stretch not in STRETCHES:
            raise InputError(f"stretch must be one of {', '.join(STRETCHES)}, got {stretch!r}.")
        self.output_dir = Path(output_dir)
        self.stretch = stretch
        self.bootstrap_samples = bootstrap_samples
        self.seed = seed
        self.pred_key = pred_key
        self._rows: list[tuple[tuple[str, ...], Row]] = []

    def attach(self, engine: Engine) -> None:
        """Score after each iteration, write after each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._rows = []

    def _score(self, engine: Engine) -> None:
        for result in results_of(engine):
            known = {"case": result.name, "image": result.path("image"), "label": result.path("label")}
            try:
                scores = saliency_scores(result.output[self.pred_key], result.output["label"], self.stretch)
            except InputError as error:
                raise InputError(f"{known['image'] or known['case'] or 'an image without a file'}: {error}") from error
            known.update(site=result.text("site"), subject=result.text("subject"))
            identity = (known["case"], known["image"], known["label"])
            self._rows.append(
                (identity if any(identity) else ("", f"{rank():06d}", f"{len(self._rows):06d}"), {**known, **scores})
            )

    def _finish(self, engine: Engine) -> None:
        rows = [row for _, row in sorted(dict(gather(self._rows)).items(), key=lambda entry: entry[0])]
        if not rows:
            return
        full = [row for row in rows if row["false_alarm"] is None]
        empty = [row for row in rows if row["false_alarm"] is not None]
        metrics = {score: self._statistics(full, score) for score in SALIENCY_SCORES}
        means = {f"saliency_{score}": value["mean"] for score, value in metrics.items() if value["mean"] is not None}
        engine.state.metrics.update(means)
        if not is_main():
            return
        write_table(self.output_dir / "saliency.csv", COLUMNS, rows)
        content = {
            "images": len(rows),
            "empty_images": len(empty),
            "stretch": self.stretch,
            "metrics": metrics,
            "sites": self._means_by_site(full),
            "empty": {score: self._statistics(empty, score) for score in ("mae", "false_alarm")},
            "conventions": CONVENTIONS,
        }
        write_json(self.output_dir / "saliency.json", content)
        logger.info("%d images, %d of them empty: %s", len(rows), len(empty), self.output_dir / "saliency.json")

    def _means_by_site(self, rows: list[Row]) -> dict[str, dict[str, float | None]]:
        """Return the mean of each score in each site: for published splits a site is a test set."""
        by_site: dict[str, list[Row]] = {}
        for row in rows:
            by_site.setdefault(str(row["site"]), []).append(row)
        return {
            site: {score: self._statistics(group, score)["mean"] for score in SALIENCY_SCORES}
            for site, group in sorted(by_site.items())
        }

    def _statistics(self, rows: list[Row], score: str) -> dict[str, float | None]:
        return summary_statistics([row[score] for row in rows], self.bootstrap_samples, self.seed)
