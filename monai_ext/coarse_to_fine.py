# SPDX-License-Identifier: Apache-2.0
"""Linear interpolation of maps from coarse cells to fine ones, and the length of an interpolated embedding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from monai_ext.cell_grid import CellGrid

SMALLEST_LENGTH = 1e-12  # as in torch.nn.functional.normalize


class CoarseToFine:
    """Resize maps from one grid of the same volume to another (linear, edges continued).

    Equal to ``interpolate(..., align_corners=False)`` where the grids cover the same voxels, and still right where they
    do not: cells are found by their position in the volume, never by stretching one grid to the other.

    Interpolation is linear, so an inner product with an interpolated embedding is the interpolated inner product, and
    its length follows from products of neighbouring coarse cells alone: the embedding itself is never resized.

    Args:
        coarse: grid of the maps.
        fine: grid of the result.
        device: of the maps.
        dtype: of the maps.

    Example:
        >>> resize = CoarseToFine(CellGrid((2,), (4,)), CellGrid((4,), (2,)))
        >>> resize(torch.tensor([[0.0, 1.0]]))
        tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """

    def __init__(
        self,
        coarse: CellGrid,
        fine: CellGrid,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.coarse = coarse
        self.fine = fine
        self.weights = [_weights(coarse, fine, axis).to(device, dtype) for axis in range(len(fine.shape))]

    def __call__(self, maps: Tensor, slab: slice = slice(None)) -> Tensor:
        """Resize maps (N, *coarse) to (N, *fine), or to a slab of the fine grid along its first axis."""
        return _resize(maps, [self.weights[0][slab], *self.weights[1:]])

    def inverse_lengths(self, embedding: Tensor) -> Tensor:
        """Return 1 / length of the interpolated embedding: (C, *coarse) -> (*fine).

        A squared length is quadratic in the weights: along one axis ``a^2 u.u + 2 a b u.v + b^2 v.v`` for neighbours u
        and v. So the products of neighbours make a map of (2 n - 1) values an axis, which is resized by squared
        weights.
        """
        products = _neighbour_products(embedding.double())
        squares = _resize(products[None], [_squared(weights.double()) for weights in self.weights])[0]
        lengths = squares.clamp(min=0).sqrt().clamp(min=SMALLEST_LENGTH)
        return lengths.reciprocal().to(self.weights[0].dtype)


def _weights(coarse: CellGrid, fine: CellGrid, axis: int) -> Tensor:
    """Weights (fine cells, coarse cells) of linear interpolation along one axis."""
    centres = torch.arange(fine.shape[axis], dtype=torch.float64) * fine.stride[axis] + (fine.stride[axis] - 1) / 2
    position = ((centres + 0.5) / coarse.stride[axis] - 0.5).clamp(0, coarse.shape[axis] - 1)
    distance = (position[:, None] - torch.arange(coarse.shape[axis], dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0)


def _squared(weights: Tensor) -> Tensor:
    """Weights of products: squares at even places, twice the product of neighbours at odd ones."""
    squared = weights.new_zeros(weights.shape[0], 2 * weights.shape[1] - 1)
    squared[:, 0::2] = weights.square()
    squared[:, 1::2] = 2 * weights[:, :-1] * weights[:, 1:]
    return squared


def _neighbour_products(embedding: Tensor) -> Tensor:
    """Inner products of neighbouring cells, (C, n, ...) -> (2 n - 1, ...): of a cell with itself at even places.

    At odd places of an axis stand products of the two cells on both sides; at odd places of several axes the mean of
    the products over all diagonals.
    """
    sides = embedding.shape[1:]
    products = embedding.new_zeros([2 * side - 1 for side in sides])
    for odd in product((0, 1), repeat=len(sides)):
        diagonals = []
        for shift in product(*(range(step + 1) for step in odd)):
            here, across = (
                _shifted(embedding, start, odd) for start in (shift, [o - s for o, s in zip(odd, shift, strict=True)])
            )
            diagonals.append((here * across).sum(dim=0))
        products[tuple(slice(o, None, 2) for o in odd)] = torch.stack(diagonals).mean(dim=0)
    return products


def _shifted(embedding: Tensor, start: Sequence[int], shorter: Sequence[int]) -> Tensor:
    """Cut each axis of (C, n, ...) to n - shorter cells from a start on."""
    for axis, (first, less) in enumerate(zip(start, shorter, strict=True), 1):
        embedding = embedding.narrow(axis, first, embedding.shape[axis] - less)
    return embedding


def _resize(maps: Tensor, weights: list[Tensor]) -> Tensor:
    """Multiply each axis of maps (N, n, ...) by its weights (m, n); the order keeps what is between small."""
    for axis in (0, *range(len(weights) - 1, 0, -1)):
        shape = [*maps.shape]
        shape[axis + 1] = weights[axis].shape[0]
        if axis == len(weights) - 1:
            maps = maps @ weights[axis].T
        else:
            columns = maps.reshape(-1, maps.shape[axis + 1], maps.shape[axis + 2 :].numel())
            maps = torch.bmm(weights[axis].expand(len(columns), -1, -1), columns).reshape(shape)
    return maps
