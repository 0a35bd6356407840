# SPDX-License-Identifier: Apache-2.0
"""How a volume is cut into tiles that overlap by a halo, so that the largest fits a budget and little is done twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod


@dataclass(frozen=True)
class Tile:
    """A part of a volume: the voxels that go through the network, and those of them whose cells are kept.

    Args:
        first: voxel along each axis at which the tile begins.
        stop: voxel at which it ends.
        core_first: voxel at which what is kept begins.
        core_stop: voxel at which that ends.
    """

    first: tuple[int, ...]
    stop: tuple[int, ...]
    core_first: tuple[int, ...]
    core_stop: tuple[int, ...]


@dataclass(frozen=True)
class TilePlan:
    """All tiles of a volume; the cores lie side by side and fill it.

    Args:
        shape: of the volume, whole blocks along each axis.
        core: voxels that are kept of each tile, whole blocks; the last ones of an axis may have fewer.
        halo: voxels more on each side of a core, whole blocks, as far as the volume goes.
    """

    shape: tuple[int, ...]
    core: tuple[int, ...]
    halo: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """All different shapes of tiles."""
        return list(product(*(sorted(set(_sides(*axis))) for axis in self._axes())))

    @property
    def total(self) -> int:
        """Voxels of all tiles, which is what the network has to do."""
        return prod(sum(_sides(*axis)) for axis in self._axes())

    def __len__(self) -> int:
        return prod(-(-side // core) for side, core in zip(self.shape, self.core, strict=True))

    def __iter__(self) -> Iterator[Tile]:
        spans = (list(_spans(*axis)) for axis in self._axes())
        for chosen in product(*spans):
            first, stop, core_first, core_stop = zip(*chosen, strict=True)
            yield Tile(first, stop, core_first, core_stop)

    def _axes(self) -> Iterator[tuple[int, int, int]]:
        yield from zip(self.shape, self.core, self.halo, strict=True)


def whole(shape: Sequence[int]) -> TilePlan:
    """Return the plan of a single tile."""
    return TilePlan(tuple(shape), tuple(shape), (0,) * len(shape))


def tile_plans(shape: Sequence[int], block: Sequence[int], halo: Sequence[int]) -> list[TilePlan]:
    """Return all plans of a volume whose tiles are about equal, the one with the least work first.

    Args:
        shape: of the volume, whole blocks.
        block: voxels along each axis at multiples of which tiles begin.
        halo: voxels along each axis that are needed around a core; rounded up to whole blocks.

    Example:
        >>> plans = tile_plans((64, 32), block=(4, 16), halo=(3, 20))
        >>> [(len(plan), plan.core, plan.total) for plan in plans[:3]]
        [(1, (64, 32), 2048), (2, (32, 32), 2304), (3, (24, 32), 2560)]
    """
    around = whole_blocks(halo, block)
    cores = [_cores(side, step) for side, step in zip(shape, block, strict=True)]
    plans = (TilePlan(tuple(shape), core, around) for core in product(*cores))
    return sorted(plans, key=lambda plan: (plan.total, len(plan)))  # of equal work the fewest tiles


def whole_blocks(sides: Sequence[int], block: Sequence[int]) -> tuple[int, ...]:
    """Return numbers of voxels rounded up to whole blocks."""
    return tuple(-(-side // step) * step for side, step in zip(sides, block, strict=True))


def _cores(side: int, step: int) -> list[int]:
    """Return the sides of cores that cut an axis into parts as equal as whole blocks can be."""
    blocks = side // step
    return sorted({-(-blocks // parts) * step for parts in range(1, blocks + 1)})


def _spans(side: int, core: int, halo: int) -> Iterator[tuple[int, int, int, int]]:
    for first in range(0, side, core):
        stop = min(first + core, side)
        yield max(first - halo, 0), min(stop + halo, side), first, stop


def _sides(side: int, core: int, halo: int) -> list[int]:
    return [stop - first for first, stop, _, _ in _spans(side, core, halo)]
