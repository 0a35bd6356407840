# SPDX-License-Identifier: Apache-2.0
"""The files of an evaluation that go beyond its own cases: sites, the published protocol, another run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.errors import InputError
from monai_ext.files import write_json
from monai_ext.metrics.case_means import case_means
from monai_ext.metrics.paired_tests import compare_cases
from monai_ext.metrics.published_protocol import PUBLISHED
from monai_ext.metrics.segmentation import SCORES
from monai_ext.metrics.site_summary import summarize_sites
from monai_ext.tables import write_table

logger = logging.getLogger(__name__)

PROTOCOLS = ("honest", "paper")
COMPARED = ("dice", "hd95_mm", "nsd")
SITE_COLUMNS = ("site", "in_domain", "score", "mean", "low", "high", "n")
Row = dict[str, Any]


@dataclass(frozen=True)
class DomainFiles:
    """Writes them into ``output_dir``, and removes those of an earlier evaluation that would be out of date.

    Attributes:
        output_dir: folder of the evaluation.
        source: names of the source sites, none when they are unknown.
        samples: bootstrap samples.
        seed: of the bootstrap.
    """

    output_dir: Path
    source: tuple[str, ...]
    samples: int
    seed: int

    def write_sites(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Write ``sites.json`` and ``sites.csv`` where sites are known; return what the summary says of them."""
        names = ("sites.json", "sites.csv")
        if not any(row["site"] for row in rows):
            self._remove(names)
            if self.source:
                logger.warning("no case names its site, so that source_site %s tells nothing", ", ".join(self.source))
            return {}
        content: dict[str, Any] = summarize_sites(rows, self.source or None, self.samples, self.seed)
        write_json(self.output_dir / names[0], content)
        table = [
            {"site": site, "in_domain": entry["in_domain"], "score": score, **entry[score]}
            for site, entry in content["sites"].items()
            for score in SCORES
        ]
        columns = [{key: line[key] for key in SITE_COLUMNS} for line in table]
        write_table(self.output_dir / names[1], SITE_COLUMNS, columns)
        if not self.source:
            return {}
        _log_sites(content)
        return {"domain_generalisation": {key: content[key] for key in ("source", "unseen", "gap")}}

    def write_paper(
        self, rows: Sequence[Row], paper_rows: Sequence[Row], columns: Sequence[str], wanted: bool
    ) -> dict[str, Any]:
        """Write ``cases_paper.csv`` if it is wanted; return what the summary says of both protocols."""
        if not wanted:
            self._remove(["cases_paper.csv"])
            return {}
        write_table(self.output_dir / "cases_paper.csv", columns, paper_rows)
        scored = {row["case"] for row in paper_rows}
        honest, paper = self._mean_dice(rows), self._mean_dice(paper_rows)
        difference = None if honest is None or paper is None else paper - honest
        of = "unseen" if self.source else "all"
        if difference is not None:
            logger.info(
                "mean Dice of %s cases: %.4f honest, %.4f by the published protocol, difference %+.4f",
                of, honest, paper, difference,
            )  # fmt: skip
        return {
            "protocols": {
                "score": "dice",
                "cases": of,
                "honest": honest,
                "paper": paper,
                "difference": difference,
                "left_out_by_paper": list(dict.fromkeys(row["case"] for row in rows if row["case"] not in scored)),
                "paper_is": PUBLISHED,
            }
        }

    def write_paired(self, rows: Sequence[Row], other: Path | None, other_rows: Sequence[Row]) -> None:
        """Write ``paired.json``, the comparison with another run, if there is one."""
        if other is None:
            self._remove(["paired.json"])
            return
        try:
            found: dict[str, dict[str, Any]] = {
                score: compare_cases(rows, other_rows, score, self.source or None, self.samples, self.seed)
                for score in COMPARED
            }
        except InputError as error:
            raise InputError(f"{other}: {error}") from error
        unmatched = {score: entry.pop("unmatched") for score, entry in found.items()}["dice"]
        write_json(self.output_dir / "paired.json", {"other": str(other), "scores": found, "unmatched": unmatched})
        _log_paired(other, found["dice"], unmatched)

    def _mean_dice(self, rows: Sequence[Row]) -> float | None:
        """Return the mean over cases; where a source is named, over those of the unseen sites, as published."""
        cases = [case for case in case_means(rows, ["dice"]) if not self.source or case.site not in ("", *self.source)]
        return float(np.mean([case.scores["dice"] for case in cases])) if cases else None

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.output_dir / name).unlink(missing_ok=True)


def protocol_names(protocols: str | Sequence[str]) -> tuple[str, ...]:
    """Return the protocols of a knob; the honest one is always among them."""
    names = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown:
        raise InputError(f"protocols must be some of {', '.join(PROTOCOLS)}, got {', '.join(map(str, unknown))}.")
    return tuple(name for name in PROTOCOLS if name == "honest" or name in names)


def _log_sites(content: Mapping[str, Any]) -> None:
    unseen, gap, source = content["unseen"], content["gap"]["dice"], ", ".join(content["source"])
    if not any(entry["in_domain"] for entry in content["sites"].values()):
        logger.warning("no case is of the source site %s, so that there is no in-domain score", source)
    if unseen:
        worst = unseen["worst_site"]["dice"]
        logger.info(
            "trained on %s: mean Dice of %d unseen sites %.4f, worst %.4f (%s)%s",
            source, unseen["sites"], unseen["mean_of_sites"]["dice"]["mean"], worst["mean"], worst["site"],
            f", {gap['mean']:.4f} less than in-domain" if gap else "",
        )  # fmt: skip


def _log_paired(other: Path, dice: Mapping[str, Any], unmatched: Mapping[str, list[str]]) -> None:
    lost = {reason: len(cases) for reason, cases in unmatched.items() if cases}
    if lost:
        logger.warning("%s: cases that are not compared: %s", other, lost)
    unseen = dice["unseen"]
    if unseen is None:
        logger.warning("%s: no case to compare", other)
        return
    p = "none" if unseen["p"] is None else f"{unseen['p']:.3g}"
    logger.info(
        "against %s: %s, Dice %+.4f over %d %scases, p %s",
        other, dice["verdict"], unseen["mean_difference"], unseen["n"], "unseen " if dice["source"] else "", p,
    )  # fmt: skip
