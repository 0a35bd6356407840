# SPDX-License-Identifier: Apache-2.0
"""Matches that move as the ones around them."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

NEIGHBOURS = 12
MAD = 1.4826  # times the median deviation is a standard deviation


def agreeing(places: Tensor, moved: Tensor, max_deviation: float, least_mm: float) -> Tensor:
    """Say which displacements (N, 3) at places (N, 3) are near the median of those around them, (N,).

    Args:
        places: in mm.
        moved: in mm.
        max_deviation: median absolute deviations that are allowed.
        least_mm: what is allowed in any case, since matches are no more exact than that.
    """
    neighbours = min(NEIGHBOURS + 1, len(places))
    indices = torch.from_numpy(cKDTree(places.numpy()).query(places.numpy(), k=neighbours)[1]).reshape(len(places), -1)
    around = moved[indices[:, 1:]] if neighbours > 1 else moved[indices]
    deviation = (moved - around.median(dim=1).values).norm(dim=1)
    return deviation <= max(max_deviation * MAD * float(deviation.median()), least_mm)
