# SPDX-License-Identifier: Apache-2.0
"""The demo of a bundle with experts: learn them from scans without labels, then fine-tune on a few labelled slices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_ext.commands._demo_places import DemoPlaces, Step
from monai_ext.commands._demo_segmentation import SegmentationDemo
from monai_ext.commands._run_step import as_words, bundle_words
from monai_ext.errors import InputError

BASE = Path("pretrained", "base.pt")


class ExpertsDemo(SegmentationDemo):
    """`SegmentationDemo` with trainings before the first: teachers and experts, on a base that stays as it is.

    There are no published weights to freeze, so a random Segment Anything is written first and taken by all trainings.

    Its ``demo.json`` says, besides what `SegmentationDemo` reads:

    - ``demo_pretraining``: title -> ``config``, a file of the bundle's ``configs``, and knobs of its own;
    - ``demo_pretraining_config``: a config on top of each of them;
    - ``demo_pretraining_knobs``: knobs of all of them;
    - ``demo_unlabelled``: the data list, inside the demo data, of the scans that they see.

    Args:
        places: the files of the demo.
        wishes: content of ``demo.json``.

    Raises:
        InputError: a pre-training names no config.
    """

    def __init__(self, places: DemoPlaces, wishes: Mapping[str, Any]) -> None:
        super().__init__(places, wishes)
        self.pretraining: dict[str, dict[str, object]] = wishes.get("demo_pretraining", {})
        self.on_top: str | None = wishes.get("demo_pretraining_config")
        self.shared: dict[str, object] = wishes.get("demo_pretraining_knobs", {})
        self.unlabelled: str = wishes.get("demo_unlabelled", "")
        nameless = [title for title, own in self.pretraining.items() if "config" not in own]
        if nameless:
            raise InputError(f"{places.config}: demo_pretraining must name a config for {', '.join(nameless)}.")

    def steps(self, resolution: int, knobs: dict[str, object]) -> list[Step]:
        """See `DemoPlan`."""
        data, *rest = super().steps(resolution, knobs)
        base = ("random base", ["-m", "monai_ext.demo.random_sam", str(self.places.models / BASE)])
        trainings = [self._pretraining_step(title, own, knobs) for title, own in self.pretraining.items()]
        return [data, base, *trainings, *rest]

    def _pretraining_step(self, title: str, own: Mapping[str, object], knobs: Mapping[str, object]) -> Step:
        places, config = self.places, str(own["config"])
        words = bundle_words(places.bundle, "training", [config, *([self.on_top] if self.on_top else [])])
        given = {
            "dataset_dir": places.data / self.unlabelled,
            "output_dir": places.scores / config.removesuffix(".json"),
            "ckpt_dir": places.models,
            **self.shared,
            **{name: value for name, value in own.items() if name != "config"},
            **knobs,
            "resume": True,
        }
        return title, [*words, *as_words(given)]
