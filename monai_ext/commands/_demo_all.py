# SPDX-License-Identifier: Apache-2.0
"""The demos of all bundles into one folder, one after the other, and the page that leads to all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext import __version__
from monai_ext.commands._bundle import read_json, read_metadata
from monai_ext.commands._demo_places import BRIEF, DemoPlaces, DemoPlan
from monai_ext.commands._run_step import as_words, run_step
from monai_ext.errors import InputError, find_input_error, message_of
from monai_ext.files import atomic_write, write_json

RECORD, PAGE = "demo_record.json", "index.html"
FINISHED, FAILED = "finished", "failed"

Record = dict[str, Any]


class AllDemos:
    """Runs the brief demo of each bundle, goes on when one fails, and rewrites the page after each.

    A bundle that has finished with the same settings, and whose files are there, is not run again.

    Args:
        bundles: folders of the bundles, in the order of the page.
        root: folder of all that they write.
        read_plan: gives a bundle's plan.
        resolution: voxel size of the brain in mm.
        knobs: of the bundles' configs; each bundle must know them.
    """

    def __init__(
        self,
        bundles: Sequence[Path],
        root: Path,
        read_plan: Callable[[DemoPlaces], DemoPlan],
        resolution: int,
        knobs: Mapping[str, object],
    ) -> None:
        self.places = [DemoPlaces(bundle, root, brief=True) for bundle in bundles]
        self.root, self.read_plan, self.resolution, self.knobs = root, read_plan, resolution, dict(knobs)
        self._ran: set[tuple[str, ...]] = set()

    def run(self) -> None:
        """Run them all.

        Raises:
            InputError: some have failed; the others are finished, and the page says what happened.
        """
        records: list[Record] = []
        for number, places in enumerate(self.places, start=1):
            title = f"{number}/{len(self.places)} {places.bundle.name}"
            found = self._finished(places)
            print(f"\n=== {title}{': is finished, not run again' if found else ''}", flush=True)
            records.append(found or self._attempt(places))
            self._write_page(records)
        print(f"\n{self.root / PAGE}: the page of all demos")
        failed = [record["bundle"] for record in records if record["status"] == FAILED]
        if failed:
            raise InputError(
                f"{len(failed)} of {len(records)} demos failed: {', '.join(failed)}; {self.root / PAGE} says why. Run "
                "demo --all again to go on with them."
            )

    def _finished(self, places: DemoPlaces) -> Record | None:
        """Return the record of an earlier run, if nothing has changed since."""
        file = places.run / RECORD
        if not file.is_file():
            return None
        record = read_json(file)
        same = record["status"] == FINISHED and record["settings"] == self._settings(places)
        named = [*record["files"].values(), *record["pictures"].values()]
        return record if same and all((self.root / name).is_file() for name in named) else None

    def _attempt(self, places: DemoPlaces) -> Record:
        """Run one, and record what came of it."""
        record = self._blank(places)
        begun = time.monotonic()
        try:
            self._run_one(places, record)
            record["status"] = FINISHED
        except Exception as error:
            if os.environ.get("MONAI_EXT_DEBUG"):
                raise
            record["problem"] = _reason(error)
            print(f"{places.bundle.name}: FAILED, {record['problem']}; the others go on", flush=True)
        record["seconds"] = round(time.monotonic() - begun, 1)
        write_json(places.run / RECORD, record)
        return record

    def _run_one(self, places: DemoPlaces, record: Record) -> None:
        plan = self.read_plan(places)
        for title, words in plan.steps(self.resolution, self.knobs):
            if tuple(words) not in self._ran:  # the data are made once for all
                record["steps"][title] = round(run_step(title, words, "demo --all"), 1)
                self._ran.add(tuple(words))
        plan.conclude(promised=False)
        outcome = plan.outcome()
        record["figures"] = outcome.figures
        record["files"], record["pictures"] = (
            {title: path.relative_to(self.root).as_posix() for title, path in group.items() if path.is_file()}
            for group in (outcome.files, outcome.pictures)
        )

    def _blank(self, places: DemoPlaces) -> Record:
        metadata = read_metadata(places.bundle)
        return {
            "bundle": places.bundle.name,
            "task": metadata.get("task", ""),
            "status": FAILED,
            "problem": "",
            "settings": self._settings(places),
            "steps": {},
            "figures": {},
            "files": {},
            "pictures": {},
        }

    def _settings(self, places: DemoPlaces) -> Record:
        """Return what the result rests on, as it is after a way through JSON."""
        shorter = {}
        if BRIEF in places.on_top:
            content = read_json(places.bundle / "configs" / BRIEF)
            shorter = {name: value for name, value in content.items() if not name.startswith("_")}
        settings = {"version": __version__, "resolution": self.resolution, "brief": shorter, "knobs": self.knobs}
        return dict(json.loads(json.dumps(settings, default=str)))

    def _write_page(self, records: Sequence[Record]) -> None:
        from monai_ext.report.demo_page import demo_page

        waiting = [places.bundle.name for places in self.places[len(records) :]]
        command = " ".join(["demo --all", *as_words(self.knobs)])
        with atomic_write(self.root / PAGE) as temporary:
            temporary.write_text(demo_page(self.root, records, waiting, command), encoding="utf-8")


def _reason(error: Exception) -> str:
    wanted = find_input_error(error)
    return message_of(wanted) if wanted is not None else f"{type(error).__name__}: {error}"
