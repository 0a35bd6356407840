# SPDX-License-Identifier: Apache-2.0
"""Scores every case of an evaluation and writes the tables that a reader, a statistician and the report open."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ignite.engine import Engine, Events

from monai_ext.data.slices import check_plane
from monai_ext.distributed import is_main, rank
from monai_ext.errors import InputError
from monai_ext.files import write_json
from monai_ext.handlers._class_names import foreground_names
from monai_ext.handlers._domain_files import DomainFiles, protocol_names
from monai_ext.handlers._paper_maps import paper_maps
from monai_ext.handlers._results import CaseResult, absolute, gather, meta_of, results_of, spacing_of
from monai_ext.metrics import EMPTY_BOTH, EMPTY_ONE, SCORES, segmentation_scores, summarize_cases
from monai_ext.metrics.summary import BOOTSTRAP_LEVEL
from monai_ext.prompts import count_prompts, counts_text, read_record
from monai_ext.scan_files import stem_of
from monai_ext.sites import SiteChoice, site_names
from monai_ext.tables import read_cases, write_table

logger = logging.getLogger(__name__)

CASE_COLUMNS = ("case", "image", "label", "prediction", "site", "subject", "class", "class_name")
COLUMNS = (*CASE_COLUMNS, *SCORES, "truth_voxels", "predicted_voxels")
Row = dict[str, Any]


class ScoredCase(NamedTuple):
    """A case: what tells it from others, a row per class, those by the published protocol, and its prompts."""

    identity: tuple[str, ...]
    rows: list[Row]
    paper_rows: list[Row]
    prompts: dict[str, int]


class CaseScores:
    """Handler for an evaluator: per-case and summary tables, and the means as the engine's metrics.

    After each epoch of the evaluator, ``cases.csv`` (a row per case and class), ``summary.json`` and
    ``summary.csv`` (mean, median, standard deviation and 95 % bootstrap interval over cases) are written. The
    engine gets the metrics ``mean_dice``, ``mean_iou``, ``mean_hd95_mm``, ``mean_asd_mm`` and ``mean_nsd``, each a
    mean over cases of the mean over foreground classes, and ``dice_<class name>`` where there are several classes.
    With several processes each attaches it: rows are gathered, a case that two processes saw (samplers repeat
    cases to fill up) counts once, all get the same metrics, and the first writes.

    The engine's output is ``pred`` and ``label``, label maps (1, *spatial) in one grid, and ``image``. (Volumes
    that differ in the order or direction of their axes alone are turned.) Distances are in mm by the label's
    affine. Attach it before handlers that read metrics.

    Where predictions carry a record of prompts (`PromptedSliceInferer`, and `KeepPromptsd` before `Invertd`), the
    table has a column ``prompts`` (``self 31, null 12``: slices by the prompt they got) and the summary their sum.

    Where the data list names sites, ``sites.json`` and ``sites.csv`` give the scores of each
    (`monai_ext.metrics.summarize_sites`), and with ``source_site`` the summary has the mean over the unseen ones. With
    the protocol "paper" the same predictions are scored a second time, as DeSAM's published evaluation does
    (`monai_ext.metrics.published_protocol`), into ``cases_paper.csv``, and the summary has both means and their
    difference. With ``compare_to``, ``paired.json`` compares the run with another, case by case
    (`monai_ext.metrics.compare_cases`).

    Args:
        output_dir: folder for the files.
        num_classes: output channels of the network, 1 for one object.
        class_names: names of the classes 1, 2, ..., or of the classes 0, 1, 2, ..., or a mapping from the class
            to its name; None calls them by number.
        tolerance_mm: of the normalised surface Dice.
        bootstrap_samples: how many times cases are drawn for the interval.
        seed: of the bootstrap.
        prompt_source: where prompts came from, for the record ("none", "self", "truth", ...).
        slices: which slices were scored, for the record ("all", "with foreground", ...).
        prediction_dir: where to look for a case's saved prediction when its metadata do not say (``saved_to``).
        source_site: the site that the network was trained on, or several.
        plane: ``axial``, ``coronal`` or ``sagittal``: which slices the published protocol looks at.
        protocols: "honest", which is always scored, and perhaps "paper"; one name or several.
        compare_to: ``cases.csv`` of another run.

    Raises:
        InputError: by the run, for a case whose prediction and label are no label maps of one grid and these
            classes; here, when ``class_names`` has the wrong length, a protocol is unknown or ``compare_to`` cannot
            be read.
        ValueError: when ``plane`` is unknown.

    Example:
        >>> import tempfile
        >>> import torch
        >>> evaluator = Engine(lambda engine, batch: [{"pred": batch["label"][0], "label": batch["label"][0]}])
        >>> CaseScores(tempfile.mkdtemp(), num_classes=1).attach(evaluator)
        >>> evaluator.run([{"label": torch.ones(1, 1, 4, 4)}]).metrics["mean_dice"]
        1.0
    """

    def __init__(
        self,
        output_dir: str | Path,
        num_classes: int,
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        tolerance_mm: float = 1.0,
        bootstrap_samples: int = 1000,
        seed: int = 0,
        prompt_source: str = "none",
        slices: str = "all",
        prediction_dir: str | Path | None = None,
        source_site: SiteChoice | None = None,
        plane: str = "axial",
        protocols: str | Sequence[str] = ("honest",),
        compare_to: str | Path | None = None,
    ) -> None:
        check_plane(plane)
        self.output_dir = Path(output_dir)
        self.num_classes = num_classes
        self.class_names = foreground_names(class_names, num_classes)
        self.tolerance_mm = tolerance_mm
        self.bootstrap_samples = bootstrap_samples
        self.seed = seed
        self.prompt_source = prompt_source
        self.slices = slices
        self.prediction_dir = None if prediction_dir is None else Path(prediction_dir)
        self.source_site = site_names(source_site)
        self.plane = plane
        self.protocols = protocol_names(protocols)
        self.compare_to = None if compare_to is None else Path(compare_to)
        self._other_rows = [] if self.compare_to is None else read_cases(self.compare_to)
        self._files = DomainFiles(self.output_dir, self.source_site, bootstrap_samples, seed)
        self._cases: list[ScoredCase] = []

    def attach(self, engine: Engine) -> None:
        """Score after each iteration, write after each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._cases = []

    def _score(self, engine: Engine) -> None:
        for result in results_of(engine):
            counts = _prompts_of(result)
            self._cases.append(ScoredCase(self._identity(result), *self._rows(result, counts), counts))

    def _identity(self, result: CaseResult) -> tuple[str, ...]:
        """Return what tells cases apart, in the order in which they are to be listed."""
        identity = (result.name, result.path("image"), result.path("label"))
        return identity if any(identity) else ("", "", "", f"{rank():06d}", f"{len(self._cases):06d}")

    def _rows(self, result: CaseResult, prompts: Mapping[str, int]) -> tuple[list[Row], list[Row]]:
        """Return the rows of a case, and those by the published protocol: none where that has nothing to score."""
        image, output = result.path("image"), result.output
        try:
            pred, label = result.label_maps()
            spacing = spacing_of(label, pred, output.get("image"), spatial_dims=label.ndim - 1)
            scores: list[Row] = segmentation_scores(pred, label, self.num_classes, spacing, self.tolerance_mm)
            maps = paper_maps(pred, label, self.plane) if "paper" in self.protocols else None
            paper: list[Row] = segmentation_scores(*maps, self.num_classes, spacing, self.tolerance_mm) if maps else []
        except InputError as error:
            raise InputError(f"{image or result.name or 'a case without a file'}: {error}") from error
        shared = {
            "case": result.name,
            "image": image,
            "label": result.path("label"),
            "prediction": absolute(meta_of(output["pred"]).get("saved_to")),
            "site": result.text("site"),
            "subject": result.text("subject"),
        }
        if prompts:
            shared["prompts"] = counts_text(prompts)
        for row in (*scores, *paper):
            row.update(shared, class_name=self.class_names[int(row["class"])])
        return scores, paper

    def _finish(self, engine: Engine) -> None:
        # the last of those with one identity
        gathered = sorted(gather(self._cases), key=lambda case: case.identity)
        cases = list({case.identity: case for case in gathered}.values())
        if not cases:
            return
        self._name(cases)
        rows = [row for case in cases for row in case.rows]
        summary = summarize_cases(rows, self.bootstrap_samples, self.seed)
        engine.state.metrics.update(_engine_metrics(summary))
        if is_main():
            self._write(cases, rows, summary)

    def _name(self, cases: list[ScoredCase]) -> None:
        """Give every case a name of its own and look for its prediction."""
        taken: set[str] = set()
        last: Counter[str] = Counter()  # number of each base, so that a thousand of one name are not tried in turn
        for number, case in enumerate(cases, start=1):
            first = case.rows[0]
            base = name = first["case"] or f"case_{number:04d}"
            while name in taken:
                last[base] = max(last[base], 1) + 1
                name = f"{base}_{last[base]}"
            taken.add(name)
            prediction = first["prediction"] or self._find_prediction(name, first["image"])
            for row in (*case.rows, *case.paper_rows):
                row.update(case=name, prediction=prediction)

    def _find_prediction(self, name: str, image: str) -> str:
        if self.prediction_dir is None:
            return ""
        for stem in (name, stem_of(os.path.basename(image))):
            found = sorted(self.prediction_dir.glob(f"{glob.escape(stem)}.*")) if stem else []
            if found:
                return absolute(found[0])
        return ""

    def _conventions(self, prompts: Mapping[str, int]) -> dict[str, Any]:
        return {
            "prompt_source": self.prompt_source,
            **({"prompts": dict(prompts)} if prompts else {}),
            "slices": self.slices,
            "empty_both": EMPTY_BOTH,
            "empty_one": EMPTY_ONE,
            "nsd_tolerance_mm": self.tolerance_mm,
            "bootstrap": {"samples": self.bootstrap_samples, "seed": self.seed, "level": BOOTSTRAP_LEVEL},
        }

    def _write(self, cases: list[ScoredCase], rows: list[Row], summary: dict[str, Any]) -> None:
        prompts = sum((Counter(case.prompts) for case in cases), Counter[str]())
        columns = (*COLUMNS, "prompts") if any("prompts" in row for row in rows) else COLUMNS
        write_table(self.output_dir / "cases.csv", columns, rows)
        beyond = self._files.write_sites(rows)
        paper_rows = [row for case in cases for row in case.paper_rows]
        beyond.update(self._files.write_paper(rows, paper_rows, columns, "paper" in self.protocols))
        summary = {**summary, **beyond, "conventions": self._conventions(prompts)}
        write_json(self.output_dir / "summary.json", summary)
        self._write_flat(summary)
        self._files.write_paired(rows, self.compare_to, self._other_rows)
        dice = summary["mean_foreground"]["dice"]
        logger.info("%d cases, mean Dice %.4f: %s", summary["cases"], dice["mean"], self.output_dir / "cases.csv")

    def _write_flat(self, summary: Mapping[str, Any]) -> None:
        flat = [
            {"class": entry["class"], "name": entry["name"], "metric": metric, **statistics}
            for entry in [
                *summary["classes"],
                {"class": "", "name": "mean_foreground", "metrics": summary["mean_foreground"]},
            ]
            for metric, statistics in entry["metrics"].items()
        ]
        write_table(
            self.output_dir / "summary.csv",
            ("class", "name", "metric", "mean", "median", "std", "low", "high", "n"),
            flat,
        )


def _prompts_of(result: CaseResult) -> dict[str, int]:
    """Count the slices of a case by the prompt they got; empty where nothing tells."""
    record = read_record(result.output["pred"]) or read_record(result.output.get("image"))
    return {} if record is None else dict(count_prompts(record))


def _engine_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    metrics = {f"mean_{score}": summary["mean_foreground"][score]["mean"] for score in SCORES}
    if len(summary["classes"]) > 1:
        for entry in summary["classes"]:
            metrics[f"dice_{re.sub(r'[^0-9A-Za-z]+', '_', entry['name'])}"] = entry["metrics"]["dice"]["mean"]
    return metrics
