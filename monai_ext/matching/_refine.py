# SPDX-License-Identifier: Apache-2.0
"""The top of the similarity between cells."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ext.matching._search import Queries, scores_at
from monai_ext.matching.volume_embedding import VolumeEmbedding


def refine(volume: VolumeEmbedding, queries: Queries, cells: Tensor) -> Tensor:
    """Move whole cells (Q, axes) by up to half a cell to the top of a parabola along each axis.

    Where a cell is the outermost one, or its neighbours are not below it, that axis is left alone.
    """
    axes = cells.shape[1]
    step = torch.eye(axes, dtype=torch.long, device=cells.device)
    around = cells[:, None] + torch.cat([torch.zeros_like(step[:1]), -step, step])  # (Q, 1 + 2 axes, axes)
    sides = torch.tensor(volume.grid.shape, device=cells.device)
    inside = ((around >= 0) & (around < sides)).all(dim=2)
    score = scores_at(volume, queries, around.clamp(min=0).minimum(sides - 1))[0].double()
    here, below, above = score[:, :1], score[:, 1 : 1 + axes], score[:, 1 + axes :]
    curvature = 2 * here - below - above
    usable = inside[:, 1 : 1 + axes] & inside[:, 1 + axes :] & (curvature > 1e-9)
    offset = ((above - below) / (2 * curvature.clamp(min=1e-9))).clamp(-0.5, 0.5)
    return cells.double() + torch.where(usable, offset, torch.zeros_like(offset))
