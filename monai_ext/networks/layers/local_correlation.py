# SPDX-License-Identifier: Apache-2.0
"""How much each place of one embedding resembles the places around it in another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

LINEAR = {2: "bilinear", 3: "trilinear"}


class LocalCorrelation(nn.Module):
    """Cosines of a fixed embedding with a moving one, one cell to each side (SAME++, arXiv 2311.14986).

    For a local cell p of the fixed image and the steps d in {-1, 0, 1} along each axis, channel
    ``(dz + 1) 9 + (dy + 1) 3 + (dx + 1)`` is the inner product of the fixed vector at p with the moving one at
    p + d; in 2-D ``(dy + 1) 3 + (dx + 1)``. Beyond the edge the outermost cells continue. The same is done with the
    global embeddings on their own cells, and the maps, brought to the local cells, are added: values lie in -2 .. 2.

    Nothing is unfolded: a slab of the fixed embedding is multiplied by shifted views of the moving one, so that beside
    the result (and one map) about ``slab_mb`` are in memory at once. Sums are taken, and given out, in float32 (or
    float64, if that comes in) whatever the embeddings' precision and autocast say.

    What all channels of a cell have in common, how well the two places fit at all, is several times larger than the
    differences between channels, which say where the better fit lies. ``center`` takes it away: the channels' mean at
    each cell. (Our choice; the published network gets the sums.)

    Args:
        align_corners: how global maps are brought to local cells. False: to where the cells lie in the image, as
            everywhere in this project. True: corner to corner, as the published code does, which is off by up to 7
            voxels in the plane and 1 across it where cells have 16 and 4.
        slab_mb: 10^6 bytes for a slab's products. Small ones stay in the processor's cache.
        center: subtract at each cell the mean over its channels.

    Shape:
        fixed and moving: ``local`` (B, C, *cells), unit vectors along C, and maybe ``global`` (B, C', *coarse cells).
        -> (B, 3 ** axes, *cells).

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.

    Example:
        >>> embedding = {"local": F.normalize(torch.randn(1, 8, 4, 6, 6), dim=1)}
        >>> maps = LocalCorrelation()(embedding, embedding)
        >>> maps.shape, bool(torch.allclose(maps[:, 13], torch.ones(1, 4, 6, 6)))
        (torch.Size([1, 27, 4, 6, 6]), True)
    """

    def __init__(self, align_corners: bool = False, slab_mb: float = 2.0, center: bool = False) -> None:
        super().__init__()
        if not slab_mb > 0:
            raise ValueError(f"slab_mb must be positive, got {slab_mb}.")
        self.align_corners = align_corners
        self.slab_mb = slab_mb
        self.center = center

    def forward(self, fixed: Mapping[str, Tensor], moving: Mapping[str, Tensor]) -> Tensor:
        _check(fixed, moving)
        local = fixed["local"]
        with torch.autocast(local.device.type, enabled=False):
            maps = _correlate(local, moving["local"], self.slab_mb)
            if "global" in fixed:
                coarse = _correlate(fixed["global"], moving["global"], self.slab_mb)
                maps = self._add_resized(maps, coarse)
            return self._centered(maps) if self.center else maps

    def _centered(self, maps: Tensor) -> Tensor:
        common = maps.mean(dim=1, keepdim=True)
        return maps - common if _is_recorded(maps) else maps.sub_(common)

    def _add_resized(self, maps: Tensor, coarse: Tensor) -> Tensor:
        size, mode = maps.shape[2:], LINEAR[maps.ndim - 2]
        if _is_recorded(maps, coarse):
            return maps + F.interpolate(coarse, size=size, mode=mode, align_corners=self.align_corners)
        for channel in range(maps.shape[1]):  # one at a time: all would take as much memory as the result
            one = coarse[:, channel : channel + 1]
            maps[:, channel : channel + 1] += F.interpolate(one, size, mode=mode, align_corners=self.align_corners)
        return maps


def _correlate(fixed: Tensor, moving: Tensor, slab_mb: float) -> Tensor:
    """Inner products (B, 3 ** axes, *cells) of each cell with its neighbours."""
    dtype = torch.float64 if fixed.dtype == torch.float64 else torch.float32
    batch, channels, *sides = fixed.shape
    if _is_recorded(fixed, moving):
        return _slab(fixed.to(dtype), _around(moving, (slice(0, sides[0]), slice(0, sides[1])), dtype))
    maps = torch.empty((batch, 3 ** len(sides), *sides), dtype=dtype, device=fixed.device)
    for item in range(batch):
        one = slice(item, item + 1)
        for slab in _slabs(sides, int(slab_mb * 1e6 / (dtype.itemsize * channels))):
            own = (one, slice(None), *slab)
            maps[own] = _slab(fixed[own].to(dtype), _around(moving[one], slab, dtype))
    return maps


def _slabs(sides: Sequence[int], cells: int) -> Iterator[tuple[slice, slice]]:
    """Cut the first two axes into whole planes, or rows of one, of about so many cells."""
    depth, rows = (max(1, min(side, cells // prod(sides[axis + 1 :]))) for axis, side in enumerate(sides[:2]))
    for plane in range(0, sides[0], depth):
        for row in range(0, sides[1], rows):
            yield slice(plane, min(plane + depth, sides[0])), slice(row, min(row + rows, sides[1]))


def _around(moving: Tensor, slab: tuple[slice, slice], dtype: torch.dtype) -> Tensor:
    """Cut (B, C, *cells) to a slab with a cell more on each side, the outermost continued."""
    ends = (1, 1) * (moving.ndim - 4)
    for axis in (3, 2):  # padding is told from the last axis on
        first, last = slab[axis - 2].start - 1, slab[axis - 2].stop + 1
        before, after = max(first, 0), min(last, moving.shape[axis])
        moving = moving.narrow(axis, before, after - before)
        ends += (before - first, last - after)
    return F.pad(moving.to(dtype), ends, mode="replicate")


def _slab(fixed: Tensor, around: Tensor) -> Tensor:
    sides = fixed.shape[2:]
    maps = []
    for start in product(range(3), repeat=len(sides)):
        there = around
        for axis, (begin, side) in enumerate(zip(start, sides, strict=True), 2):
            there = there.narrow(axis, begin, side)
        maps.append((fixed * there).sum(dim=1))
    return torch.stack(maps, dim=1)


def _is_recorded(*tensors: Tensor) -> bool:
    """Whether all steps are kept, for a gradient or for a graph, so that slabs save nothing."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _check(fixed: Mapping[str, Tensor], moving: Mapping[str, Tensor]) -> None:
    if ("global" in fixed) != ("global" in moving):
        raise ValueError("global embeddings must be given of both images or of none.")
    for name in ("local", "global") if "global" in fixed else ("local",):
        ours, theirs = fixed[name], moving[name]
        if ours.ndim not in (4, 5) or ours.shape != theirs.shape:
            raise ValueError(
                f"{name} must be (B, C, *cells) of 2 or 3 axes and alike of both images, got {tuple(ours.shape)} and "
                f"{tuple(theirs.shape)}."
            )
