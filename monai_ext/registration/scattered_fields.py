# SPDX-License-Identifier: Apache-2.0
"""Displacements at scattered places brought to the nodes of a grid without solving for them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.sparse import csr_matrix
from scipy.spatial import QhullError, cKDTree
from torch import Tensor

from monai_ext.cell_grid import CellGrid
from monai_ext.errors import InputError

FAR = 4.0  # standard deviations beyond which a Gaussian is left out
SMALLEST_WEIGHT = 1e-2  # of a Gaussian at its top; with fewer and further places the field fades to 0


def gaussian_field(nodes: CellGrid, places: Tensor, moved: Tensor, sigma: float) -> Tensor:
    """Return the mean of the displacements around each node, weighted by a Gaussian (normalised convolution).

    Args:
        nodes: the grid of nodes.
        places: (N, 3) positions in cells of the grid.
        moved: (N, 3) displacements there.
        sigma: standard deviation of the Gaussian, in cells.
    """
    near = cKDTree(nodes.positions().numpy()).sparse_distance_matrix(
        cKDTree(places.numpy()), FAR * sigma, output_type="coo_matrix"
    )
    heights = csr_matrix((np.exp(-0.5 * (near.data / sigma) ** 2), (near.row, near.col)), shape=near.shape)
    total = np.maximum(np.asarray(heights.sum(axis=1)), SMALLEST_WEIGHT)
    return _as_field((heights @ moved.double().numpy()) / total, nodes.shape)


def interpolated_field(nodes: CellGrid, places: Tensor, moved: Tensor) -> Tensor:
    """Return the linear interpolation between the places (Delaunay), and the nearest one's beyond them.

    Raises:
        InputError: the places lie in a plane.
    """
    where, values = places.numpy(), moved.double().numpy()
    try:
        linear = LinearNDInterpolator(where, values)
    except QhullError as error:
        raise InputError(f"{len(places)} matches in a plane cannot be interpolated; use field=lsq.") from error
    positions = nodes.positions().numpy()
    found = linear(positions)
    nearest = NearestNDInterpolator(where, values)(positions)
    return _as_field(np.where(np.isfinite(found), found, nearest), nodes.shape)


def _as_field(values: NDArray[np.float64], shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.T)).reshape(3, *shape)
