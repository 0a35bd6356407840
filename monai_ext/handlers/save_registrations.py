# SPDX-License-Identifier: Apache-2.0
"""Writes what registration found: the warped scan and labels, and the transform as ITK reads it."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events

from monai_ext.files import write_json
from monai_ext.handlers._registration_case import RegistrationCase, registration_cases
from monai_ext.registration import AppliedRegistration, TransformChain, WorldGrid, invert, write_transform
from monai_ext.shipping.volume_files import read_label, read_volume, write_volume

AFFINE, FORWARD, INVERSE = "affine.tfm", "transform.h5", "inverse.h5"
WARPED, WARPED_LABEL, RECORD = "warped.nii.gz", "warped_label.nii.gz", "registration.json"


class SaveRegistrations:
    """Handler for an evaluator of pairs: a folder ``<output_dir>/<case>`` for each.

    - ``transform.h5``: the whole map as ITK reads it, points of the fixed scan to the moving one: a displacement field
      and, where there is one, the first affine map after it, which ``affine.tfm`` has alone;
    - ``warped.nii.gz``: the moving scan in the fixed scan's own grid, from its own voxels;
      ``warped_label.nii.gz``: its labels, where there are any;
    - ``inverse.h5``, if wanted: the way back;
    - ``registration.json``: the paths, the affine map, and the scores of `DisplacementScores`. It is written last:
      where it is, all is.

    A pair is written as soon as it is registered, each file whole or not at all. The files that `python -m monai_ext
    register` writes have the same names, and `python -m monai_ext apply` takes them.

    Args:
        output_dir: folder for all pairs.
        body_threshold: of the scores, see `DisplacementScores`.
        inverse: write the inverse, too, which takes as long as the rest.
        padding_value: of the warped scan where the moving one does not reach; None: the moving scan's least value.

    Example:
        >>> evaluator = Engine(lambda engine, batch: [])
        >>> SaveRegistrations("eval/registrations").attach(evaluator)
    """

    def __init__(
        self,
        output_dir: str | Path,
        body_threshold: float | None = None,
        inverse: bool = False,
        padding_value: float | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.body_threshold = body_threshold
        self.inverse = inverse
        self.padding_value = padding_value

    def attach(self, engine: Engine) -> None:
        """Write after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        for case in registration_cases(engine):
            self._write_case(case, self.output_dir / (case.name or "pair"))

    def _write_case(self, case: RegistrationCase, target: Path) -> None:
        (target / RECORD).unlink(missing_ok=True)
        transform = case.transform()
        write_transform(target / FORWARD, transform)
        record = {**case.row(self.body_threshold), "direction": "points of the fixed scan to the moving one, RAS mm"}
        record |= {"matrix": case.matrix.tolist(), "files": [FORWARD, *self._write_warped(case, transform, target)]}
        if not torch.equal(case.matrix, torch.eye(4).double()):
            write_transform(target / AFFINE, TransformChain([case.matrix]))
            record["files"].append(AFFINE)
        if self.inverse:
            grid = WorldGrid(tuple(case.ddf.shape[1:]), case.affine)
            found = invert(transform, grid, case.body(self.body_threshold))
            write_transform(target / INVERSE, found.transform)
            record |= {"files": [*record["files"], INVERSE], "inverse_residual_max_mm": found.residual_max_mm}
        write_json(target / RECORD, record)

    def _write_warped(self, case: RegistrationCase, transform: TransformChain, target: Path) -> list[str]:
        applied = AppliedRegistration(transform)
        fixed, moving = (read_volume(Path(case.given[key])) for key in ("fixed_path", "moving_path"))
        outside = float(moving.min()) if self.padding_value is None else self.padding_value
        write_volume(target / WARPED, applied.image(moving, fixed, outside))
        if not case.given.get("moving_label_path"):
            return [WARPED]
        write_volume(target / WARPED_LABEL, applied.label(read_label(Path(case.given["moving_label_path"])), fixed))
        return [WARPED, WARPED_LABEL]
