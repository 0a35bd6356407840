# SPDX-License-Identifier: Apache-2.0
"""How far what a student says is from what it should."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

RECONSTRUCTIONS = ("mse", "l2", "l1")


class ReconstructionLoss(nn.Module):
    """Distance of SAMora's stage 1 between student and teacher, or between a decoded and a clean image.

    Its source prints the Euclidean norm without a square; the code that it builds on has the mean square.

    Args:
        recon: ``mse``, the mean square; ``l2``, the norm of each sample's difference, averaged over the samples; or
            ``l1``, the mean absolute difference.

    Shape:
        prediction and target of one shape (B, ...), or both in a list as the first argument (what comes after it is
        not looked at, so that a trainer may pass a label) -> a single number, in float32 at least.

    Raises:
        ValueError: an unknown ``recon``, or shapes that differ.

    Example:
        >>> target, prediction = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> [float(ReconstructionLoss(recon)(prediction, target)) for recon in ("mse", "l2", "l1")]
        [12.5, 5.0, 3.5]
    """

    def __init__(self, recon: str = "mse") -> None:
        super().__init__()
        if recon not in RECONSTRUCTIONS:
            raise ValueError(f"recon must be one of {', '.join(RECONSTRUCTIONS)}, got {recon!r}.")
        self.recon = recon

    def forward(self, prediction: Tensor | Sequence[Tensor], target: Tensor | None = None) -> Tensor:
        said, wanted = (prediction, target) if isinstance(prediction, Tensor) else prediction
        if not isinstance(wanted, Tensor) or said.shape != wanted.shape:
            shapes = [tuple(x.shape) if isinstance(x, Tensor) else x for x in (said, wanted)]
            raise ValueError(f"prediction and target must have one shape, got {shapes[0]} and {shapes[1]}.")
        said, wanted = _at_least_float(said), _at_least_float(wanted)
        if self.recon == "l2":
            return torch.linalg.vector_norm((said - wanted).flatten(1), dim=1).mean()
        return F.mse_loss(said, wanted) if self.recon == "mse" else F.l1_loss(said, wanted)


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
