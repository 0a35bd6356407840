# SPDX-License-Identifier: Apache-2.0
"""Two scans, and what each step of a registration has found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from monai_ext.registration import TransformChain, WorldDisplacement, WorldGrid
from monai_ext.registration.folding import Folding

BEFORE = "before"


class PairPaths(NamedTuple):
    """Two scans and where their bodies are, if files say it."""

    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None


class RegisteredStep(NamedTuple):
    """What a step has found.

    Attributes:
        name: of the step; the first of all is ``before``, which moves nothing.
        transform: from the fixed to the moving scan's RAS mm, the steps before it included.
        numbers: on which matches it rests, and how well it fits them.
        folding: of the displacement inside the body; an affine map has none.
    """

    name: str
    transform: TransformChain
    numbers: dict[str, Any]
    folding: Folding = Folding(0.0, 0.0)


@dataclass
class RegisteredPair:
    """Two scans as the network gets them, the body of the fixed one, and what each step has found."""

    fixed: MetaTensor
    moving: MetaTensor
    body: Tensor
    steps: list[RegisteredStep] = field(default_factory=lambda: [RegisteredStep(BEFORE, TransformChain([]), {})])

    @property
    def grid(self) -> WorldGrid:
        """Where the fixed scan's voxels are, as the network gets them."""
        return WorldGrid.of(self.fixed)

    @property
    def transform(self) -> TransformChain:
        """What the last step has found."""
        return self.steps[-1].transform

    @property
    def matrix(self) -> Tensor:
        """The affine part (4, 4)."""
        found = [part for part in self.transform.parts if not isinstance(part, WorldDisplacement)]
        return found[-1] if found else torch.eye(4, dtype=torch.float64)

    @property
    def field(self) -> WorldDisplacement | None:
        """The displacement that comes before the affine map."""
        first = self.transform.parts[0] if self.transform.parts else None
        return first if isinstance(first, WorldDisplacement) else None
