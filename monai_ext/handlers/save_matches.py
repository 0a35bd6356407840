# SPDX-License-Identifier: Apache-2.0
"""Writes where points were found, a table for each pair of scans."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events

from monai_ext.data.point_list import PointList
from monai_ext.followup.match_table import write_matches
from monai_ext.handlers._results import CaseResult, results_of
from monai_ext.spaces import check_space


class SaveMatches:
    """Handler for an evaluator of pairs: ``<output_dir>/<case>.csv`` for each, as ``python -m monai_ext match`` does.

    A case is written as soon as it is matched, whole or not at all, so that what is done survives a crash.

    Args:
        output_dir: folder for the tables.
        space: of the places written, ``RAS`` or ``LPS``.

    Raises:
        InputError: an unknown space.

    Example:
        >>> evaluator = Engine(lambda engine, batch: [])
        >>> SaveMatches("eval/matches").attach(evaluator)
    """

    def __init__(self, output_dir: str | Path, space: str = "RAS") -> None:
        self.output_dir = Path(output_dir)
        self.space = check_space(space)

    def attach(self, engine: Engine) -> None:
        """Write after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        for result in results_of(engine):
            path = self.output_dir / f"{result.name or 'pair'}.csv"
            write_matches(path, _points_of(result), result.output["pred"], self.space)


def _points_of(result: CaseResult) -> PointList:
    known = result.batch.get("point_list")
    if isinstance(known, PointList):
        return known
    return PointList(tuple(result.batch["point_names"]), result.batch["points"])
