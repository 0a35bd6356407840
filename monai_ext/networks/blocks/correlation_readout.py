# SPDX-License-Identifier: Apache-2.0
"""The displacement that a local correlation speaks for, as a linear function of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.networks.layers.factories import Conv
from torch import Tensor

LINEAR = {2: "bilinear", 3: "trilinear"}
VOXELS = 2  # a cell along each axis
RIDGE = 1e-6  # of the mean square of a feature; neighbouring channels say nearly the same
INSIDE = 0.9  # share of a cell's voxels whose displacement is known


@dataclass
class ReadoutSums:
    """What least squares needs to know of any number of pairs; sums of two lots are those of both.

    Args:
        squares: (channels, channels) sum over cells of each feature times each.
        products: (channels, axes) of each feature times each component of the displacement.
        variation: sum of the squared lengths of the displacements.
        cells: how many there were.
    """

    squares: Tensor
    products: Tensor
    variation: float
    cells: int

    def __add__(self, other: ReadoutSums) -> ReadoutSums:
        return ReadoutSums(
            self.squares + other.squares,
            self.products + other.products,
            self.variation + other.variation,
            self.cells + other.cells,
        )


class CorrelationReadout(nn.Module):
    """A displacement for each voxel as a weighted sum of the correlations around it (ours; not in a paper).

    Where one embedding lies a bit off the other, `LocalCorrelation` is larger on one side than on the other; what all
    channels of a cell share says nothing of that, and is taken away. Of a single cell the rest says little, but
    displacements are smooth: the sums are averaged with a Gaussian. The weights are not trained step by step, which
    such alike channels would make slow, but solved for at once, by least squares over pairs whose displacement is known
    (`sums` and `solve`). Until then all are 0, and nothing moves.

    Args:
        spatial_dims: 2 or 3.
        sigma: standard deviation of the Gaussian, in cells of two voxels; beyond the edge there is nothing.

    Shape:
        features (B, 3 ** spatial_dims, *cells) -> (B, spatial_dims, *voxels) in voxels, two voxels a cell.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> readout = CorrelationReadout(spatial_dims=2, sigma=1.0)
        >>> readout(torch.rand(1, 9, 6, 7)).shape, readout.is_solved
        (torch.Size([1, 2, 12, 14]), False)
    """

    kernel: Tensor

    def __init__(self, spatial_dims: int = 3, sigma: float = 4.0) -> None:
        super().__init__()
        if spatial_dims not in LINEAR:
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}.")
        self.spatial_dims = spatial_dims
        self.sum = Conv[Conv.CONV, spatial_dims](3**spatial_dims, spatial_dims, kernel_size=1, bias=False)
        nn.init.zeros_(self.sum.weight)
        with torch.device("cpu"):  # it is computed from, which a tensor without values cannot be
            kernel = gaussian_1d(torch.tensor(sigma), truncated=3.0)
        self.register_buffer("kernel", kernel)  # kept with the weights, which belong to it and to no other

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            found = self._averaged(self.sum(_centered(features)))
            mode = LINEAR[self.spatial_dims]
            return F.interpolate(found, scale_factor=float(VOXELS), mode=mode, align_corners=False)

    @property
    def is_solved(self) -> bool:
        """Whether it has weights."""
        return bool(self.sum.weight.detach().any())

    @torch.no_grad()
    def sums(self, features: Tensor, truth: Tensor, mask: Tensor) -> ReadoutSums:
        """Return what pairs contribute to the least squares.

        Args:
            features: (B, channels, *cells), the correlation; maybe with cells behind the last voxel.
            truth: (B, axes, *voxels), the known displacement in voxels.
            mask: (B, 1, *voxels), above 0 where it counts.
        """
        cells = [(side + VOXELS - 1) // VOXELS for side in truth.shape[2:]]
        own = (slice(None), slice(None), *(slice(side) for side in cells))
        averaged = self._averaged(_centered(features))[own]
        inside = _halved((mask > 0).to(truth.dtype))[:, 0] > INSIDE
        x, y = (values.movedim(1, -1)[inside].double() for values in (averaged, _halved(truth)))
        return ReadoutSums(x.T @ x, x.T @ y, float(y.square().sum()), len(x))

    @torch.no_grad()
    def solve(self, sums: ReadoutSums) -> float:
        """Set the weights by ridge regression; return the share of the displacements' squares that they explain.

        Raises:
            ValueError: there was no cell whose displacement is known and not 0, or the correlation was 0 everywhere.
        """
        ridge = RIDGE * sums.squares.trace() / len(sums.squares)
        if not (ridge > 0 and sums.variation > 0):
            raise ValueError("no displacement to learn from: no known one in the body, or no correlation.")
        eye = torch.eye(len(sums.squares), dtype=torch.float64, device=sums.squares.device)
        weights = torch.linalg.solve(sums.squares + ridge * eye, sums.products)
        self.sum.weight.copy_(weights.T.reshape(self.sum.weight.shape))
        left = sums.variation - 2 * (weights * sums.products).sum() + (weights * (sums.squares @ weights)).sum()
        return 1 - float(left) / sums.variation

    def _averaged(self, x: Tensor) -> Tensor:
        return separable_filtering(x, [self.kernel.to(x)] * self.spatial_dims)


def _halved(x: Tensor) -> Tensor:
    """Average the voxels of each cell; the last one may have but one along an axis."""
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return pool(x, VOXELS, ceil_mode=True)


def _centered(features: Tensor) -> Tensor:
    """Take away what the channels of a cell share, so that it matters not whether that was done before."""
    features = features if features.dtype == torch.float64 else features.float()
    return features - features.mean(dim=1, keepdim=True)
