# SPDX-License-Identifier: Apache-2.0
"""What the handlers for registration ask of an evaluator's output: a pair on one grid, and its displacement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.distributed import rank
from monai_ext.errors import InputError
from monai_ext.field_warp import FieldWarp
from monai_ext.handlers._results import CaseResult, results_of
from monai_ext.metrics.registration import folding_percentage, sd_log_jacobian, warped_dice
from monai_ext.registration import TransformChain, WorldDisplacement, WorldGrid
from monai_ext.shipping.body_mask import body_mask

Row = dict[str, Any]


@dataclass(frozen=True)
class RegistrationCase:
    """A pair of scans: ``given`` is what the data set gave, ``ddf`` (axes, *spatial) the displacement in voxels."""

    given: Mapping[str, Any]
    ddf: Tensor

    @property
    def name(self) -> str:
        """Name of the pair."""
        return str(self.given.get("case") or "")

    def identity(self, number: int) -> tuple[str, ...]:
        """Return what tells the pair from others; ``number`` where it has neither name nor files."""
        known = tuple(str(self.given.get(key) or "") for key in ("case", "moving_path", "fixed_path"))
        return known if any(known) else ("", "", f"{rank():06d}", f"{number:06d}")

    @property
    def affine(self) -> Tensor:
        """From the grid's voxels to RAS mm in the fixed scan."""
        image = self.given["image"]
        return image.affine.detach().cpu().double() if isinstance(image, MetaTensor) else torch.eye(4).double()

    @property
    def matrix(self) -> Tensor:
        """The first affine map (4, 4), from the fixed to the moving scan's RAS mm."""
        return torch.as_tensor(self.given.get("matrix", torch.eye(4))).double()

    @property
    def scans(self) -> dict[str, Tensor]:
        """Both scans (C, *spatial) on the grid."""
        image = self.given["image"]
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return dict(zip(("moving", "fixed"), plain.cpu().float().chunk(2), strict=True))

    @property
    def points(self) -> tuple[Tensor, Tensor] | None:
        """The same places in the fixed and in the moving scan (N, 3), RAS mm; None where they are not known."""
        pair = [self.given.get(key) for key in ("points", "truth")]
        if pair[0] is None or pair[1] is None or not len(pair[0]):
            return None
        return torch.as_tensor(pair[0]).double(), torch.as_tensor(pair[1]).double()

    def transform(self) -> TransformChain:
        """Return the whole map from the fixed to the moving scan's RAS mm: the field, then the affine map.

        The outermost displacements go on for a voxel: the scan's own grid may reach a little further.
        """
        affine = self.affine.clone()
        affine[:3, 3] -= affine[:3, :3].sum(dim=1)
        ddf = F.pad(self.ddf[None], (1,) * 6, mode="replicate")[0]
        field = WorldDisplacement.from_voxels(ddf, WorldGrid(tuple(ddf.shape[1:]), affine))
        return TransformChain([field] if torch.equal(self.matrix, torch.eye(4).double()) else [field, self.matrix])

    def errors(self) -> dict[str, Tensor]:
        """Return the mm between where points are taken and where they are, before, aligned and after."""
        if self.points is None:
            return {}
        fixed, moving = self.points
        found = {"unaligned": fixed, "before": TransformChain([self.matrix])(fixed), "after": self.transform()(fixed)}
        return {step: (places - moving).norm(dim=1) for step, places in found.items()}

    def row(self, body_threshold: float | None) -> Row:
        """Return all scores of the pair by name; None where there is nothing to score by."""
        errors = {f"tre_{step}_mm": float(values.mean()) for step, values in self.errors().items()}
        dice = {f"dice_{step}": _mean(scores.values()) for step, scores in self.dice().items()}
        body = self.body(body_threshold)
        scans = self.scans
        warped = FieldWarp()(scans["moving"][None], self.ddf[None])[0]
        similarity = (("before", scans["moving"]), ("after", warped))
        return {
            **{key: str(self.given.get(key) or "") for key in ("case", "fixed_path", "moving_path", "site", "subject")},
            "points": 0 if self.points is None else len(self.points[0]),
            **{f"tre_{step}_mm": errors.get(f"tre_{step}_mm") for step in ("unaligned", "before", "after")},
            **{f"dice_{step}": dice.get(f"dice_{step}") for step in ("before", "after")},
            **{f"ncc_{step}": _correlation(scan, scans["fixed"], body) for step, scan in similarity},
            "folding_percent": folding_percentage(self.ddf, body),
            "sd_log_j": sd_log_jacobian(self.ddf, body),
        }

    def dice(self) -> dict[str, dict[int, float]]:
        """Return the Dice of each label that both scans have, before and after; nothing without labels."""
        labels = [self.given.get(key) for key in ("fixed_label", "moving_label")]
        if labels[0] is None or labels[1] is None:
            return {}
        fixed, moving = (torch.as_tensor(label).cpu() for label in labels)
        fields = {"before": torch.zeros_like(self.ddf), "after": self.ddf}
        return {step: warped_dice(ddf, fixed, moving) for step, ddf in fields.items()}

    def body(self, threshold: float | None) -> Tensor:
        """Return where in the fixed scan the body is, bool (*spatial)."""
        return body_mask(MetaTensor(self.scans["fixed"], affine=self.affine), Path(self.name or "a pair"), threshold)


def registration_cases(engine: Engine) -> list[RegistrationCase]:
    """Return the pairs of the engine's last iteration.

    Raises:
        InputError: points of a pair that are not as many in both scans.
    """
    return [case_of(result) for result in results_of(engine)]


def case_of(result: CaseResult) -> RegistrationCase:
    """Return one pair of an evaluator's iteration."""
    given = {**result.batch, **{key: value for key, value in result.output.items() if key != "pred"}}
    case = RegistrationCase(given, result.output["pred"].detach().cpu().float())
    if case.points is not None and case.points[0].shape != case.points[1].shape:
        shapes = " and ".join(str(tuple(places.shape)) for places in case.points)
        raise InputError(f"{case.name}: points and truth must be as many, got {shapes}.")
    return case


def _mean(values: Any) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None


def _correlation(one: Tensor, other: Tensor, body: Tensor) -> float | None:
    """Correlation coefficient inside the body; None where nothing varies."""
    pair = torch.stack([x[:, body].double().flatten() for x in (one, other)])
    pair = pair - pair.mean(dim=1, keepdim=True)
    lengths = pair.norm(dim=1)
    return float(pair[0] @ pair[1] / lengths.prod()) if float(lengths.min()) > 0 else None
