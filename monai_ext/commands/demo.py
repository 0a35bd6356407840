# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext demo`: a bundle from data to report, on a real brain, on two cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_ext.commands._bundle import find_bundle, read_json
from monai_ext.commands._demo_experts import ExpertsDemo
from monai_ext.commands._demo_matching import MatchingDemo
from monai_ext.commands._demo_places import DemoPlaces, DemoPlan
from monai_ext.commands._demo_registration import RegistrationDemo
from monai_ext.commands._demo_segmentation import SegmentationDemo
from monai_ext.commands._run_step import run_step
from monai_ext.errors import InputError

PLANS: dict[str, Callable[[DemoPlaces, Mapping[str, Any]], DemoPlan]] = {
    "segmentation": SegmentationDemo,
    "matching": MatchingDemo,
    "registration": RegistrationDemo,
    "experts": ExpertsDemo,
}


def demo(name: str = "sam2_unet", output_dir: str = "demo", resolution: int = 1, **knobs: object) -> None:
    """Train, evaluate, export, use and report a bundle on the MNI152 brain; nothing is downloaded.

    Run it again after an interruption and it goes on where it stopped.

    Args:
        name: bundle, by name or path.
        output_dir: folder for the data, the models, the predictions and the report.
        resolution: voxel size of the brain in mm: 1, 2 or 4.
        **knobs: any knob of the bundle's configs, e.g. --max_epochs 2.

    Example:
        python -m monai_ext demo --output_dir demo
    """
    places = DemoPlaces(find_bundle(name), Path(output_dir).absolute())
    plan = _read_plan(places)
    started = time.monotonic()
    for title, words in plan.steps(resolution, knobs):
        run_step(title, words, "demo")
    print(f"\nall done in {(time.monotonic() - started) / 60:.1f} minutes")
    plan.conclude(promised=resolution == 1 and not knobs)


def _read_plan(places: DemoPlaces) -> DemoPlan:
    """Return the plan of the kind that ``demo_plan`` in the bundle's ``demo.json`` names."""
    wishes = read_json(places.config)
    kind = wishes.get("demo_plan", "segmentation")
    if kind not in PLANS:
        raise InputError(f"{places.config}: demo_plan must be one of {', '.join(PLANS)}, got {kind!r}.")
    return PLANS[kind](places, wishes)
