# SPDX-License-Identifier: Apache-2.0
"""The embeddings of a whole volume, where they lie in the world, and what matching needs of them again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from monai_ext.cell_grid import CellGrid
from monai_ext.coarse_to_fine import CoarseToFine


class VolumeEmbedding:
    """Local and global unit vectors of one volume, ready to be searched.

    What is computed for the first search (the lengths of the resized global embedding) is kept for all others.

    Args:
        outputs: ``local`` (C, *cells), ``global`` (C, *cells) and maybe ``semantic`` like ``local``, as the network
            gives them for one volume; a leading batch of one is taken off. Half precision is fine.
        affine: (axes + 1, axes + 1), from voxels of the embedded volume, in the order of its axes, to RAS mm.
        size: voxels along each axis that are the volume's own. What the volume was padded with behind them is never
            found. None: no padding.
        local_stride: voxels a cell of the local embedding.
        global_stride: voxels a cell of the global embedding.

    Raises:
        ValueError: shapes that do not fit, or an affine that cannot be inverted.

    Example:
        >>> outputs = {"local": torch.rand(8, 4, 16, 16), "global": torch.rand(8, 2, 2, 2)}
        >>> volume = VolumeEmbedding(outputs, affine=torch.eye(4), size=(7, 32, 30))
        >>> volume.grid.shape, volume.to_world(torch.zeros(1, 3)).tolist()
        ((4, 16, 15), [[0.0, 0.0, 0.0]])
    """

    def __init__(
        self,
        outputs: Mapping[str, Tensor],
        affine: Tensor,
        size: Sequence[int] | None = None,
        local_stride: Sequence[int] = (2, 2, 2),
        global_stride: Sequence[int] = (4, 16, 16),
    ) -> None:
        axes = len(local_stride)
        maps = {name: _single(x.detach(), axes, name) for name, x in outputs.items()}
        local, coarse = maps["local"], maps["global"]
        whole = tuple(side * stride for side, stride in zip(local.shape[1:], local_stride, strict=True))
        self.size = tuple(size) if size is not None else whole
        _check(maps, affine, self.size, whole)
        cells = tuple(-(-side // stride) for side, stride in zip(self.size, local_stride, strict=True))
        own = (slice(None), *(slice(side) for side in cells))
        self.fine = [maps[name][own].contiguous() for name in ("local", "semantic") if name in maps]
        self.coarse = coarse
        self.grid = CellGrid(cells, tuple(local_stride))
        self.coarse_grid = CellGrid(tuple(coarse.shape[1:]), tuple(global_stride))
        self.affine = affine.detach().to(local.device, torch.float64)

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.coarse.device

    @cached_property
    def resize(self) -> CoarseToFine:
        """What brings maps of the global embedding to the local one's cells."""
        return CoarseToFine(self.coarse_grid, self.grid, self.device)

    @cached_property
    def inverse_lengths(self) -> Tensor:
        """1 / length of the global embedding at each local cell, (*cells)."""
        return self.resize.inverse_lengths(self.coarse)

    def to_world(self, voxels: Tensor) -> Tensor:
        """Turn voxel positions (..., axes) into RAS mm, in double precision."""
        return voxels.double() @ self.affine[:-1, :-1].T + self.affine[:-1, -1]

    def to_voxels(self, world: Tensor) -> Tensor:
        """Turn RAS mm (..., axes) into voxel positions, in double precision."""
        inverse = torch.linalg.inv(self.affine[:-1, :-1])
        return (world.double() - self.affine[:-1, -1]) @ inverse.T

    def contains(self, voxels: Tensor) -> Tensor:
        """Say which voxel positions (N, axes) lie in the volume, its outermost voxels' faces included."""
        last = voxels.new_tensor(self.size) - 0.5
        # a face's position may have gone through two affines
        return ((voxels >= -0.5 - 1e-6) & (voxels <= last + 1e-6)).all(dim=-1)


def _single(x: Tensor, axes: int, name: str) -> Tensor:
    if x.ndim == axes + 2 and len(x) == 1:
        x = x[0]
    if x.ndim != axes + 1:
        raise ValueError(f"{name} must be (C, {axes} axes) of one volume, got {tuple(x.shape)}.")
    return x.as_subclass(torch.Tensor)


def _check(maps: Mapping[str, Tensor], affine: Tensor, size: tuple[int, ...], whole: tuple[int, ...]) -> None:
    axes = len(whole)
    if "semantic" in maps and maps["semantic"].shape != maps["local"].shape:
        raise ValueError(f"semantic must be {tuple(maps['local'].shape)}, got {tuple(maps['semantic'].shape)}.")
    if affine.shape != (axes + 1, axes + 1):
        raise ValueError(f"affine must be {(axes + 1, axes + 1)}, got {tuple(affine.shape)}.")
    if not affine.isfinite().all() or torch.linalg.det(affine[:-1, :-1].double()) == 0:
        raise ValueError(f"affine must be invertible, got {affine.tolist()}.")
    if len(size) != axes or any(not 0 < own <= all_ for own, all_ in zip(size, whole, strict=True)):
        raise ValueError(f"size must be {axes} numbers up to {whole}, which the cells describe, got {size}.")
