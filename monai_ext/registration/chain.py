# SPDX-License-Identifier: Apache-2.0
"""Affine maps and displacement fields one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_ext.registration.displacement import WorldDisplacement


class TransformChain:
    """A map of RAS mm made of parts that are applied first to last.

    A registration maps points of the *fixed* image to the *moving* one, which is what resampling the moving image on
    the fixed grid needs. A field on the fixed image comes first, the affine after it: ``TransformChain([field, A])``.

    Args:
        parts: (4, 4) affine matrices and `WorldDisplacement` objects; none at all is the identity.

    Raises:
        ValueError: a matrix of another shape, or one that cannot be inverted.

    Example:
        >>> shift = torch.eye(4)
        >>> shift[0, 3] = 2
        >>> TransformChain([shift, 3 * torch.eye(4) / 3])(torch.zeros(1, 3)).tolist()
        [[2.0, 0.0, 0.0]]
    """

    def __init__(self, parts: Sequence[Tensor | WorldDisplacement]) -> None:
        self.parts = tuple(part if isinstance(part, WorldDisplacement) else _matrix(part) for part in parts)

    @property
    def matrix(self) -> Tensor | None:
        """The product (4, 4) of all parts, None if one of them is a field."""
        product = torch.eye(4, dtype=torch.float64)
        for part in self.parts:
            if isinstance(part, WorldDisplacement):
                return None
            product = part @ product
        return product

    def __call__(self, points: Tensor) -> Tensor:
        """Map points (N, 3) in RAS mm, in double precision."""
        points = points.double()
        for part in self.parts:
            points = part(points) if isinstance(part, WorldDisplacement) else _apply(part, points)
        return points

    def source_of(self, points: Tensor) -> Tensor:
        """Map points (N, 3) the other way, to where they come from; see `WorldDisplacement.source_of`."""
        points = points.double()
        for part in reversed(self.parts):
            if isinstance(part, WorldDisplacement):
                points = part.source_of(points)
            else:
                points = _apply(torch.linalg.inv(part), points)
        return points


def _matrix(part: Tensor) -> Tensor:
    matrix = torch.as_tensor(part).detach().as_subclass(Tensor).to("cpu", torch.float64)
    rows = matrix.shape == (4, 4) and matrix[3].tolist() == [0, 0, 0, 1]
    if not rows or not matrix.isfinite().all() or torch.linalg.det(matrix[:3, :3]) == 0:
        raise ValueError(f"an affine part must be (4, 4), end with 0 0 0 1 and be invertible, got {matrix.tolist()}.")
    return matrix


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    matrix = matrix.to(points.device)
    return points @ matrix[:3, :3].T + matrix[:3, 3]
