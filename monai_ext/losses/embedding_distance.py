# SPDX-License-Identifier: Apache-2.0
"""How little a displaced embedding resembles a fixed one."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from monai_ext.field_warp import FieldWarp


def embedding_distance(fixed: Tensor, moving: Tensor, ddf: Tensor, stride: Sequence[int]) -> Tensor:
    """Mean of 1 - cosine between an embedding and another one read where a displacement leads.

    The similarity term of registration by anatomical embedding (SAME++, https://arxiv.org/abs/2311.14986). A cell goes
    where the voxels that it stands for go on average. Vectors between cells are interpolated, with the outermost
    continued beyond the edge; the cosine makes up for their length. The gradient is that of the displacement alone:
    embeddings are taken as given.

    Args:
        fixed: (B, C, *cells).
        moving: alike, on the same grid.
        ddf: (B, axes, *spatial), displacement in voxels, from fixed to moving.
        stride: voxels a cell along each axis. Cells that stand for no voxel of ``ddf`` are left out.

    Returns:
        A single number from 0 to 2.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]).reshape(1, 2, 1, 3)
        >>> float(embedding_distance(maps, maps, torch.zeros(1, 2, 2, 6), stride=(2, 2)))
        0.0
    """
    axes = len(stride)
    if fixed.shape != moving.shape or fixed.ndim != axes + 2 or ddf.shape[:2] != (len(fixed), axes):
        raise ValueError(
            f"embeddings must be alike, (B, C, {axes} axes), and the displacement (B, {axes}, {axes} axes), got "
            f"{tuple(fixed.shape)}, {tuple(moving.shape)} and {tuple(ddf.shape)}."
        )
    pool = F.avg_pool2d if axes == 2 else F.avg_pool3d
    voxels = ddf.new_tensor(list(stride)).reshape(-1, *[1] * axes)
    moved = pool(ddf, tuple(stride), ceil_mode=True, count_include_pad=False) / voxels
    shared = [slice(min(have, there)) for have, there in zip(fixed.shape[2:], moved.shape[2:], strict=True)]
    own = (slice(None), slice(None), *shared)
    warped = FieldWarp()(moving.detach()[own].to(ddf.dtype), moved[own])
    return 1 - F.cosine_similarity(warped, fixed.detach()[own].to(ddf.dtype), dim=1).mean()
