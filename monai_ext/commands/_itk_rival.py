# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext.commands._itk_rival`: register two scans by SimpleITK, scored as `register` scores itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError, message_of
from monai_ext.files import write_json

RECORD = "registration.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both transforms and ``registration.json``, whose ``steps`` and ``costs`` are those of `register`."""
    parser = argparse.ArgumentParser(prog="python -m monai_ext.commands._itk_rival", description=__doc__)
    for name in ("fixed", "moving", "output", "points", "fixed_label", "moving_label"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=4.0, help="mm of the voxels that both scans are brought to")
    parser.add_argument("--body_threshold", type=float, help="where the body is, in which folding is measured")
    try:
        _compare(parser.parse_args(arguments))
    except InputError as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    return 0


def _compare(asked: argparse.Namespace) -> None:
    from monai_ext.data.pair_prefixes import PREFIXES, pair_prefixes
    from monai_ext.data.point_file import read_point_pairs
    from monai_ext.registration import TransformChain, WorldDisplacement, WorldGrid
    from monai_ext.registration.folding import Folding, measure_folding
    from monai_ext.shipping.body_mask import body_mask
    from monai_ext.shipping.intensity_registration import IntensityRegistration
    from monai_ext.shipping.registration_scores import RegistrationScores
    from monai_ext.shipping.step_costs import StepCosts
    from monai_ext.shipping.volume_files import read_label, read_volume
    from monai_ext.transforms import ResampleScand

    (asked.output / RECORD).unlink(missing_ok=True)  # where the record is, all is
    costs = StepCosts()
    found = IntensityRegistration(spacing=asked.spacing)(asked.fixed, asked.moving, asked.output, costs)
    coarser = ResampleScand(keys=["fixed", "moving"], spacing=asked.spacing)
    scans = coarser({"fixed": read_volume(asked.fixed), "moving": read_volume(asked.moving)})
    body = body_mask(scans["fixed"], asked.fixed, asked.body_threshold)
    labels = read_label(asked.fixed_label), read_label(asked.moving_label)
    points = read_point_pairs(asked.points, *(pair_prefixes(asked.points) or PREFIXES[0]))
    scores = RegistrationScores(scans["fixed"], scans["moving"], body, points, labels)
    steps: list[dict[str, Any]] = []
    for name, transform in {"before": TransformChain([]), **found}.items():
        field = next((part for part in transform.parts if isinstance(part, WorldDisplacement)), None)
        folding = Folding(0.0, 0.0)
        if field is not None:
            folding = measure_folding(WorldDisplacement.sampled(field, WorldGrid.of(scans["fixed"])), body)
        steps.append({"step": name, "folding_percent": round(folding.percent, 4), **scores(transform)})
    write_json(asked.output / RECORD, {"steps": steps, "costs": costs.measured})
    for step in steps:
        print(f"{step['step']:<12} error {step['tre_mm']['mean']:.2f} mm, Dice {step['dice']['mean']:.3f}")


if __name__ == "__main__":
    sys.exit(main())
