# SPDX-License-Identifier: Apache-2.0
"""How far the cells of a feature map see, computed from the layers in front of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn


@dataclass(frozen=True)
class Reach:
    """The voxels on which a cell depends: along each axis ``stride i - below`` to ``stride i + above`` for cell i.

    A network's `forward` is followed layer by layer: `through` a convolution or a pooling, `resized` to a finer map's
    cells, and ``a | b`` where two maps are added.

    Args:
        below: voxels before the first one of the cell, along each axis.
        above: voxels behind the first one of the cell.
        stride: voxels a cell.

    Example:
        >>> reach = Reach.of_voxels(2).through(nn.Conv2d(1, 1, 3, stride=2, padding=1))
        >>> reach, reach.halo
        (Reach(below=(1, 1), above=(1, 1), stride=(2, 2)), (1, 1))
    """

    below: tuple[int, ...]
    above: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of_voxels(cls, axes: int) -> Reach:
        """Return that of an image's own voxels, which see themselves alone."""
        return cls((0,) * axes, (0,) * axes, (1,) * axes)

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels on each side of a block of whole cells on which these cells depend, along each axis."""
        sides = zip(self.below, self.above, self.stride, strict=True)
        return tuple(max(below, above - stride + 1, 0) for below, above, stride in sides)

    def through(self, layer: nn.Module) -> Reach:
        """Return the reach behind a convolution or a pooling with a window; behind an identity it is the same.

        Raises:
            TypeError: a layer of another kind.
        """
        if isinstance(layer, nn.Identity):
            return self
        if not isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)):
            raise TypeError(f"the reach of {type(layer).__name__} is not known.")
        kernel, step, padding = (self._sides(value) for value in (layer.kernel_size, layer.stride, layer.padding))
        return Reach(
            tuple(b + s * p for b, s, p in zip(self.below, self.stride, padding, strict=True)),
            tuple(a + s * (k - 1 - p) for a, s, k, p in zip(self.above, self.stride, kernel, padding, strict=True)),
            tuple(s * t for s, t in zip(self.stride, step, strict=True)),
        )

    def resized(self, finer: Reach) -> Reach:
        """Return the reach of the cells of a finer map, each of which takes the value of the coarser cell around it."""
        apart = [ours - theirs for ours, theirs in zip(self.stride, finer.stride, strict=True)]
        return Reach(tuple(b + d for b, d in zip(self.below, apart, strict=True)), self.above, finer.stride)

    def __or__(self, other: Reach) -> Reach:
        """Return the reach of the sum of two maps with the same cells."""
        if self.stride != other.stride:
            raise ValueError(f"maps must have the same stride to be added, got {self.stride} and {other.stride}.")
        below = tuple(max(pair) for pair in zip(self.below, other.below, strict=True))
        return Reach(below, tuple(max(pair) for pair in zip(self.above, other.above, strict=True)), self.stride)

    def _sides(self, value: int | tuple[int, ...] | str) -> tuple[int, ...]:
        if isinstance(value, str):
            raise TypeError(f"the reach of a layer padded by rule ({value!r}) is not known.")
        return (value,) * len(self.stride) if isinstance(value, int) else tuple(value)
