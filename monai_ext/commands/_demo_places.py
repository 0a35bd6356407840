# SPDX-License-Identifier: Apache-2.0
"""Where the demo of a bundle keeps its files, and what its plan offers to the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from monai_ext.commands._run_step import bundle_words

Step = tuple[str, list[str]]  # a title, and what python is to run

FIRST = "sam2_unet"  # the bundle of the README's first command


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


@dataclass(frozen=True)
class DemoPlaces:
    """Files of a demo.

    Args:
        bundle: folder of the bundle.
        root: folder of all that the demo writes.
    """

    bundle: Path
    root: Path

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
        return self.bundle / "configs" / "demo.json"

    def bundle_run(self, run_id: str, files: list[str], more: list[str], output_dir: Path | None = None) -> list[str]:
        """Return the words that run the bundle with ``demo.json`` on top, into ``scores`` or another folder."""
        words = bundle_words(self.bundle, run_id, [*files, "demo.json"])
        words += ["--output_dir", str(output_dir or self.scores), "--ckpt_dir", str(self.models)]
        return [*words, *more]

    def data_step(self, resolution: int) -> Step:
        """Return the step that every demo begins with."""
        words = ["-m", "monai_ext", "demo_data", "--output_dir", str(self.data), "--resolution", str(resolution)]
        return "data", words
