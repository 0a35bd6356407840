# SPDX-License-Identifier: Apache-2.0
"""Where the demo of a bundle keeps its files, and what its plan offers to the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from monai_ext.commands._bundle import read_json
from monai_ext.commands._run_step import bundle_words

Step = tuple[str, list[str]]  # a title, and what python is to run

FIRST = "sam2_unet"  # the bundle of the README's first command
CONFIG, BRIEF = "demo.json", "demo_brief.json"


class Outcome(NamedTuple):
    """What a demo led to: figures as text, files to open, pictures to show; each by its title."""

    figures: dict[str, str]
    files: dict[str, Path]
    pictures: dict[str, Path]


class DemoPlan(Protocol):
    """The steps of a demo, each one safe to run again, and what they must lead to."""

    def steps(self, resolution: int, knobs: dict[str, object]) -> list[Step]:
        """Return the steps in their order.

        Args:
            resolution: voxel size of the brain in mm.
            knobs: of the bundle's configs, for every step that runs it.
        """

    def conclude(self, promised: bool) -> None:
        """Print what came out.

        Args:
            promised: whether it is to be compared with what the README promises.

        Raises:
            InputError: it is less than promised.
        """

    def outcome(self) -> Outcome:
        """Return what the page of all demos says of this one, after `conclude`."""


@dataclass(frozen=True)
class DemoPlaces:
    """Files of a demo.

    Args:
        bundle: folder of the bundle.
        root: folder of all that the demo writes.
        brief: whether the bundle's ``demo_brief.json`` shortens the trainings, where there is one.
    """

    bundle: Path
    root: Path
    brief: bool = False

    @property
    def data(self) -> Path:
        """The demo data, which demos of several bundles may share."""
        return self.root / "data"

    @property
    def run(self) -> Path:
        """All of this bundle's, except for its report."""
        return self.root / self.bundle.name

    @property
    def scores(self) -> Path:
        """What evaluation writes."""
        return self.run / "eval"

    @property
    def models(self) -> Path:
        """The weights and exported networks."""
        return self.run / "models"

    @property
    def report(self) -> Path:
        """The page to read."""
        return self.root / ("report.html" if self.bundle.name == FIRST else f"report_{self.bundle.name}.html")

    @property
    def config(self) -> Path:
        """The bundle's ``demo.json``."""
        return self.bundle / "configs" / CONFIG

    @property
    def on_top(self) -> list[str]:
        """The configs of the demo, later ones on top."""
        shorter = self.brief and (self.bundle / "configs" / BRIEF).is_file()
        return [CONFIG, BRIEF] if shorter else [CONFIG]

    def read_wishes(self) -> dict[str, Any]:
        """Return what these configs say together."""
        wishes: dict[str, Any] = {}
        for name in self.on_top:
            wishes |= read_json(self.bundle / "configs" / name)
        return wishes

    def bundle_run(self, run_id: str, files: list[str], more: list[str], output_dir: Path | None = None) -> list[str]:
        """Return the words that run the bundle with the demo's configs on top, into ``scores`` or another folder."""
        words = bundle_words(self.bundle, run_id, [*files, *self.on_top])
        words += ["--output_dir", str(output_dir or self.scores), "--ckpt_dir", str(self.models)]
        return [*words, *more]

    def data_step(self, resolution: int) -> Step:
        """Return the step that every demo begins with."""
        words = ["-m", "monai_ext", "demo_data", "--output_dir", str(self.data), "--resolution", str(resolution)]
        return "data", words
