# SPDX-License-Identifier: Apache-2.0
"""Embeddings of a volume that an affine map has moved, without computing them again."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ext.matching import VolumeEmbedding


def relocated(moving: VolumeEmbedding, matrix: Tensor) -> VolumeEmbedding:
    """Return the same embeddings as if the moving volume lay where the inverse of the matrix takes it.

    Stands in for embedding the warped volume again: nothing is computed, and nothing gained by a better alignment.
    """
    names = ("local", "semantic")
    outputs = {**dict(zip(names, moving.fine, strict=False)), "global": moving.coarse}
    affine = torch.linalg.inv(matrix.double().to(moving.device)) @ moving.affine
    return VolumeEmbedding(outputs, affine, moving.size, moving.grid.stride, moving.coarse_grid.stride)
