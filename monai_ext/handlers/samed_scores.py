# SPDX-License-Identifier: Apache-2.0
"""A second table of an evaluation, by the convention of the papers on few labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from monai_ext.distributed import is_main, rank
from monai_ext.errors import InputError
from monai_ext.files import write_json
from monai_ext.handlers._class_names import foreground_names
from monai_ext.handlers._results import gather, results_of
from monai_ext.metrics import SAMED_CONVENTION, samed_scores
from monai_ext.tables import write_table

logger = logging.getLogger(__name__)

CONVENTIONS = ("standard", "samed")
SCORES = ("dice", "hd95_voxels")
COLUMNS = ("case", "class", "class_name", *SCORES)
Row = dict[str, Any]


class SAMedScores:
    """Handler for an evaluator: ``cases_samed.csv`` and ``summary_samed.json``, beside those of `CaseScores`.

    They hold the same predictions, scored as `monai_ext.metrics.samed_scores` does and averaged over cases, then over
    classes. With the convention "standard" it does nothing. The engine's output is that of `CaseScores`; of a case
    that two processes saw, one counts.

    Args:
        output_dir: folder for the two files.
        num_classes: output channels of the network, 1 for one object.
        class_names: as `CaseScores` takes them.
        convention: ``standard`` or ``samed``.

    Raises:
        InputError: another convention, or ``class_names`` of the wrong length.

    Example:
        >>> import tempfile
        >>> import torch
        >>> folder = tempfile.mkdtemp()
        >>> evaluator = Engine(lambda engine, batch: [{"pred": batch["label"][0], "label": batch["label"][0]}])
        >>> SAMedScores(folder, num_classes=1, convention="samed").attach(evaluator)
        >>> _ = evaluator.run([{"label": torch.ones(1, 1, 4, 4)}])
        >>> sorted(path.name for path in Path(folder).iterdir())
        ['cases_samed.csv', 'summary_samed.json']
    """

    def __init__(
        self,
        output_dir: str | Path,
        num_classes: int,
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        convention: str = "standard",
    ) -> None:
        if convention not in CONVENTIONS:
            raise InputError(f"metric_convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}.")
        self.output_dir = Path(output_dir)
        self.num_classes = num_classes
        self.class_names = foreground_names(class_names, num_classes)
        self.convention = convention
        self._cases: list[tuple[tuple[str, ...], list[Row]]] = []

    def attach(self, engine: Engine) -> None:
        """Score after each iteration, write after each epoch."""
        if self.convention == "standard":
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._cases = []

    def _score(self, engine: Engine) -> None:
        for result in results_of(engine):
            scores = samed_scores(*result.label_maps(), self.num_classes)
            rows: list[Row] = [
                {"case": result.name, "class_name": self.class_names[int(row["class"])], **row} for row in scores
            ]
            identity = (result.name, result.path("image"), result.path("label"))
            identity = identity if any(identity) else ("", f"{rank():06d}", f"{len(self._cases):06d}")
            self._cases.append((identity, rows))

    def _finish(self, engine: Engine) -> None:
        cases = dict(sorted(gather(self._cases), key=lambda case: case[0]))
        if not cases or not is_main():
            return
        rows = [row for own in cases.values() for row in own]
        classes = [
            {"class": index, "name": name, **_means([row for row in rows if row["class"] == index])}
            for index, name in self.class_names.items()
        ]
        mean = _means(classes)
        summary = {
            "cases": len(cases),
            "classes": classes,
            "mean_foreground": mean,
            "convention": SAMED_CONVENTION,
        }
        write_table(self.output_dir / "cases_samed.csv", COLUMNS, rows)
        write_json(self.output_dir / "summary_samed.json", summary)
        path = self.output_dir / "summary_samed.json"
        logger.info("by SAMed's convention: mean Dice %.4f: %s", mean["dice"], path)


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {score: float(np.mean([row[score] for row in rows])) for score in SCORES}
