# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext demo`: a bundle from data to report, on a real brain, on two cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_ext.commands._bundle import all_bundles, find_bundle
from monai_ext.commands._demo_all import AllDemos
from monai_ext.commands._demo_experts import ExpertsDemo
from monai_ext.commands._demo_matching import MatchingDemo
from monai_ext.commands._demo_places import CONFIG, FIRST, DemoPlaces, DemoPlan
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


def demo(
    name: str | None = None, output_dir: str | None = None, resolution: int = 1, all: bool = False, **knobs: object
) -> None:
    """Train, evaluate, export, use and report a bundle on the MNI152 brain; nothing is downloaded.

    Run it again after an interruption and it goes on where it stopped. With --all, every bundle is trained for a
    shorter time than its own demo takes (all six together less than an hour on two cores); one that fails does not stop
    the others, one that is finished is not run again, and index.html shows them all.

    Args:
        name: bundle, by name or path. Default: sam2_unet.
        output_dir: folder for the data, the models, the predictions and the report. Default: demo; demo_all with --all.
        resolution: voxel size of the brain in mm: 1, 2 or 4.
        all: all bundles instead of one.
        **knobs: any knob of the bundle's configs, e.g. --max_epochs 2.

    Example:
        python -m monai_ext demo --output_dir demo
    """
    if all:
        _demo_all(name, Path(output_dir or "demo_all").absolute(), resolution, knobs)
        return
    places = DemoPlaces(find_bundle(name or FIRST), Path(output_dir or "demo").absolute())
    plan = _read_plan(places)
    started = time.monotonic()
    for title, words in plan.steps(resolution, knobs):
        run_step(title, words, "demo")
    print(f"\nall done in {(time.monotonic() - started) / 60:.1f} minutes")
    plan.conclude(promised=resolution == 1 and not knobs)


def _demo_all(name: str | None, root: Path, resolution: int, knobs: dict[str, object]) -> None:
    if name is not None:
        raise InputError(f"demo: --all runs every bundle; leave {name} out, or leave --all out.")
    bundles = [bundle for bundle in all_bundles() if (bundle / "configs" / CONFIG).is_file()]
    AllDemos(bundles, root, _read_plan, resolution, knobs).run()


def _read_plan(places: DemoPlaces) -> DemoPlan:
    """Return the plan of the kind that ``demo_plan`` in the bundle's ``demo.json`` names."""
    wishes = places.read_wishes()
    kind = wishes.get("demo_plan", "segmentation")
    if kind not in PLANS:
        raise InputError(f"{places.config}: demo_plan must be one of {', '.join(PLANS)}, got {kind!r}.")
    return PLANS[kind](places, wishes)
