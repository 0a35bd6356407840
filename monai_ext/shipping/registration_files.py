# SPDX-License-Identifier: Apache-2.0
"""What a registration leaves on the disk."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import SimpleITK as sitk  # noqa: N813
import torch

from monai_ext import __version__
from monai_ext.data.point_list import PointList
from monai_ext.errors import InputError
from monai_ext.files import atomic_write, sha256_of, write_json
from monai_ext.followup.pair_list import is_same_file
from monai_ext.registration import AppliedRegistration, TransformChain, invert, write_transform
from monai_ext.report.registration_picture import picture_bytes, registration_picture
from monai_ext.shipping.bundle_deformation import BundleDeformation
from monai_ext.shipping.bundle_matching import BundleMatching
from monai_ext.shipping.registered_pair import PairPaths, RegisteredPair
from monai_ext.shipping.registration_scores import RegistrationScores
from monai_ext.shipping.step_costs import StepCosts
from monai_ext.shipping.volume_files import read_label, read_volume, write_volume

WARPED, WARPED_LABEL, PICTURE = "warped.nii.gz", "warped_label.nii.gz", "picture.png"
AFFINE, FORWARD, INVERSE = "affine.tfm", "transform.h5", "inverse.h5"
RECORD = "registration.json"
FILES = (AFFINE, FORWARD, INVERSE, WARPED, WARPED_LABEL, PICTURE, RECORD)


@dataclass(frozen=True)
class RegistrationInputs:
    """All that a registration reads.

    Args:
        scans: both scans and their masks.
        moving_label: labels to bring to the fixed scan.
        fixed_label: labels to compare them with.
        points: table of the same places in both scans.
    """

    scans: PairPaths
    moving_label: Path | None = None
    fixed_label: Path | None = None
    points: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [p for p in (*self.scans, self.moving_label, self.fixed_label, self.points) if p is not None]


def check_target(target: Path, inputs: list[Path]) -> None:
    """Refuse a folder in which a result would take an input's place.

    Raises:
        InputError: it would, or the folder is a file.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: output must be a folder, there is a file of this name; choose another.")
    for path in (target / name for name in FILES):
        same = next((other for other in inputs if is_same_file(path, other)), None)
        if same is not None:
            raise InputError(f"{path}: would overwrite the input {same}; choose another output folder.")


class RegistrationFiles:
    """Writes transforms, warped images, picture and record to a folder, each whole or not at all, the record last.

    Args:
        target: the folder.
        inputs: what was registered.
        scores: of a transform.
        costs: of what was done so far; what is done here is added.
        padding_value: of the warped image where the moving one does not reach; None: the moving image's least value.

    Example:
        >>> files = RegistrationFiles(Path("out"), inputs, scores, costs)  # doctest: +SKIP
        >>> files.write(pair, matching)["inverse"]["residual_max_mm"]  # doctest: +SKIP
        0.041
    """

    def __init__(
        self,
        target: Path,
        inputs: RegistrationInputs,
        scores: RegistrationScores,
        costs: StepCosts,
        padding_value: float | None = None,
    ) -> None:
        self.target = target
        self.inputs = inputs
        self.scores = scores
        self.costs = costs
        self.padding_value = padding_value

    def write(
        self, pair: RegisteredPair, matching: BundleMatching, deformation: BundleDeformation | None = None
    ) -> dict[str, Any]:
        """Write everything and return what the record holds."""
        (self.target / RECORD).unlink(missing_ok=True)  # where the record is, all is, and of one run
        with self.costs.of("scores"):
            steps = [self._step(step) for step in pair.steps]
        with self.costs.of("inverse"):
            inverse = self._write_transforms(pair)
        with self.costs.of("warp"):
            written = self._write_warped(pair.transform)
        with self.costs.of("picture"), atomic_write(self.target / PICTURE) as temporary:
            picture = registration_picture(pair.fixed, pair.moving, pair.transform, pair.body)
            temporary.write_bytes(picture_bytes(picture))
        record = {
            "format": "monai_ext registration",
            "version": 1,
            "note": matching.note,
            "direction": "points of the fixed scan to the moving one, RAS mm",
            "inputs": {**_named(self.inputs.scans._asdict()), **_named(self._further())},
            "files": [*([AFFINE] if _has_affine(pair) else []), FORWARD, INVERSE, *written, PICTURE, RECORD],
            "steps": steps,
            "matrix": pair.matrix.tolist(),
            "inverse": inverse,
            **({} if self.scores.points is None else {"points": _points(self.scores.points, pair.transform)}),
            "costs": dict(self.costs.measured),
            "how": _how(matching, deformation),
        }
        write_json(self.target / RECORD, record)
        return record

    def _step(self, step: Any) -> dict[str, Any]:
        folding = {
            "folding_percent": round(step.folding.percent, 4),
            "sd_log_j": round(step.folding.sd_log_j, 4),
        }
        return {"step": step.name, **step.numbers, **folding, **self.scores(step.transform)}

    def _write_transforms(self, pair: RegisteredPair) -> dict[str, float]:
        if _has_affine(pair):
            write_transform(self.target / AFFINE, TransformChain([pair.matrix]))
        write_transform(self.target / FORWARD, pair.transform)
        inverse = invert(pair.transform, pair.grid, pair.body)
        write_transform(self.target / INVERSE, inverse.transform)
        return {
            "residual_mean_mm": round(inverse.residual_mean_mm, 5),
            "residual_max_mm": round(inverse.residual_max_mm, 5),
        }

    def _write_warped(self, transform: TransformChain) -> list[str]:
        """Write the moving image and its labels in the fixed image's own grid, and return their names."""
        applied = AppliedRegistration(transform)
        fixed, moving = (read_volume(path) for path in self.inputs.scans[:2])
        outside = float(moving.min()) if self.padding_value is None else self.padding_value
        write_volume(self.target / WARPED, applied.image(moving, fixed, outside))
        if self.inputs.moving_label is None:
            return [WARPED]
        write_volume(self.target / WARPED_LABEL, applied.label(read_label(self.inputs.moving_label), fixed))
        return [WARPED, WARPED_LABEL]

    def _further(self) -> dict[str, Path | None]:
        inputs = self.inputs
        return {"moving_label": inputs.moving_label, "fixed_label": inputs.fixed_label, "points": inputs.points}


def _has_affine(pair: RegisteredPair) -> bool:
    return any(step.name == "affine" for step in pair.steps)


def _named(paths: dict[str, Path | None]) -> dict[str, str | None]:
    return {name: None if path is None else str(path) for name, path in paths.items()}


def _points(points: tuple[PointList, PointList], transform: TransformChain) -> list[dict[str, object]]:
    """Return where each point of the fixed scan is taken, and where it should be, RAS mm."""
    mapped = transform(points[0].points).cpu()
    errors = (mapped - points[1].points).norm(dim=1)
    rows = zip(points[0].names, points[0].points.tolist(), mapped.tolist(), points[1].points.tolist(), strict=True)
    return [
        {"point": name, "fixed": fixed, "mapped": [round(x, 5) for x in found], "moving": moving, "error_mm": error}
        for (name, fixed, found, moving), error in zip(rows, [round(float(e), 4) for e in errors], strict=True)
    ]


def _how(matching: BundleMatching, deformation: BundleDeformation | None) -> dict[str, object]:
    weights = matching.weights
    return {
        "bundle": matching.provenance["bundle"],
        "untrained": weights is None,
        "weights": None if weights is None else str(weights),
        "weights_sha256": None if weights is None else sha256_of(weights),
        **({} if deformation is None else {"deform": deformation.provenance}),
        "versions": {
            "monai_ext": __version__,
            "torch": torch.__version__,
            "monai": monai.__version__,
            "SimpleITK": str(sitk.Version_VersionString()),
            "python": platform.python_version(),
        },
    }
