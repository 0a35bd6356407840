# SPDX-License-Identifier: Apache-2.0
"""The smooth field of least energy through displacements at scattered places."""

from __future__ import annotations

from functools import reduce
from itertools import product
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from torch import Tensor

from monai_ext.cell_grid import CellGrid

ANCHOR = 1e-3  # of the smoothness: nodes far from all places are drawn to 0, ever so little


def least_squares_field(nodes: CellGrid, places: Tensor, moved: Tensor, smoothness: float) -> Tensor:
    """Return the field of least energy, by one factorisation for all three components.

    The energy is ``mean |W d - moved|^2 + smoothness (sum over neighbours |d_a - d_b|^2 + ANCHOR sum |d_a|^2) / G``,
    with W the trilinear weights of G nodes at the places. It is quadratic, so its minimum solves
    ``(W^T W / n + smoothness L) d = W^T moved / n``. As smoothness grows the field goes to 0: the affine is left.

    With the longest axis outermost all entries lie near the diagonal, and Cholesky's factorisation of the band is five
    times as fast as one of a general sparse matrix. It takes G times the product of the two shorter sides in memory.

    Args:
        nodes: the grid of nodes.
        places: (N, 3) positions in cells of the grid.
        moved: (N, 3) displacements there.
        smoothness: weight of the differences between neighbours, positive.

    Returns:
        (3, *nodes.shape) displacements of the nodes.

    Example:
        >>> nodes = CellGrid((3, 3, 3), (4, 4, 4))
        >>> places, moved = nodes.positions(), torch.ones(27, 3)
        >>> least_squares_field(nodes, places, moved, smoothness=1e-6).round(decimals=3).unique().tolist()
        [1.0]
    """
    order = sorted(range(3), key=lambda axis: -nodes.shape[axis])
    shape = tuple(nodes.shape[axis] for axis in order)
    cells = _Cells(shape, places.double().numpy()[:, order])
    band = _data_band(cells)
    _add_roughness(band, shape, smoothness)
    right = _right_side(cells, moved.double().numpy())
    solution = solveh_banded(band, right.T, overwrite_ab=True, lower=True, check_finite=False)
    field = torch.from_numpy(np.ascontiguousarray(solution.T)).reshape(3, *shape)
    return field.permute(0, *(1 + order.index(axis) for axis in range(3))).contiguous()


class _Cells:
    """The places (N, 3) among nodes: the number of the node below each and how far it is to the next one."""

    def __init__(self, shape: tuple[int, ...], places: NDArray[np.float64]) -> None:
        last = np.array(shape) - 1
        places = np.clip(places, 0, last)
        lower = np.minimum(np.floor(places), np.maximum(last - 1, 0))
        self.shape = shape
        self.steps = tuple(prod(shape[axis + 1 :]) for axis in range(3))
        self.numbers = lower.astype(np.int64) @ np.array(self.steps)
        self.fractions = places - lower

    def total(self, *factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of products of the factors (N,) over the places above each node, (*shape)."""
        total = np.bincount(self.numbers, reduce(np.multiply, factors), prod(self.shape))
        return np.asarray(total, dtype=np.float64).reshape(self.shape)


def _data_band(cells: _Cells) -> NDArray[np.float64]:
    """Return W^T W / n as bands: at (i, j) the product of nodes j + i and j, (bandwidth, G).

    Products of trilinear weights are products of (1 - f)^2, f (1 - f) and f^2 along the axes: 27 sums for each cell
    give the products of all pairs of its corners.
    """
    fraction = cells.fractions
    powers = ((1 - fraction) ** 2, fraction * (1 - fraction), fraction**2)
    band = np.zeros((sum(cells.steps) + 1, prod(cells.shape)))
    for kind in product(range(3), repeat=3):
        total = cells.total(*(powers[power][:, axis] for axis, power in enumerate(kind))) / len(fraction)
        for corner in product(*(_CORNERS[power] for power in kind)):
            other = tuple(power - upper for power, upper in zip(kind, corner, strict=True))
            apart = sum((b - a) * step for a, b, step in zip(corner, other, cells.steps, strict=True))
            if apart > 0 or corner == other:
                _add_at(band[apart].reshape(cells.shape), corner, total)
    return band


_CORNERS = ((0,), (0, 1), (1,))  # along an axis: the first corners of the pairs with that product


def _right_side(cells: _Cells, moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return W^T moved / n, (3, G)."""
    weights = (1 - cells.fractions, cells.fractions)
    right = np.zeros((3, *cells.shape))
    for corner in product(range(2), repeat=3):
        weight = reduce(np.multiply, (weights[upper][:, axis] for axis, upper in enumerate(corner)))
        for component in range(3):
            _add_at(right[component], corner, cells.total(weight, moved[:, component]) / len(moved))
    return right.reshape(3, -1)


def _add_at(target: NDArray[np.float64], corner: tuple[int, ...], values: NDArray[np.float64]) -> None:
    """Add each cell's value to its node at a corner; nothing lies above the last nodes."""
    upper = tuple(slice(step, None) for step in corner)
    lower = tuple(slice(None, side - step) for side, step in zip(target.shape, corner, strict=True))
    target[upper] += values[lower]


def _add_roughness(band: NDArray[np.float64], shape: tuple[int, ...], smoothness: float) -> None:
    """Add the grid's Laplacian and the anchor, divided by the number of nodes."""
    weight = smoothness / prod(shape)
    diagonal = band[0].reshape(shape)
    diagonal += ANCHOR * weight
    for axis in range(3):
        before = tuple(slice(-1) if each == axis else slice(None) for each in range(3))
        behind = tuple(slice(1, None) if each == axis else slice(None) for each in range(3))
        diagonal[before] += weight
        diagonal[behind] += weight
        band[prod(shape[axis + 1 :])].reshape(shape)[before] -= weight
