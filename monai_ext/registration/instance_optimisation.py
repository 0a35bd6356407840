# SPDX-License-Identifier: Apache-2.0
"""A displacement improved for one pair of images, without learning, until their embeddings agree best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.field_warp import FieldWarp
from monai_ext.losses.embedding_distance import embedding_distance

COSTS = ("local", "both")
LINEAR = {2: "bilinear", 3: "trilinear"}
SMOOTHINGS = 3


class OptimisedField(NamedTuple):
    """What the optimisation gives.

    Attributes:
        ddf: (B, axes, *size), displacement in voxels from the fixed to the moving image, the initial one included.
        costs: of each iterate, the first being no change; the least one's displacement is the result.
    """

    ddf: Tensor
    costs: list[float]


def optimise_instance(
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    size: Sequence[int],
    initial: Tensor | None = None,
    cost: str = "local",
    iterations: int = 50,
    learning_rate: float = 0.05,
    lambda_reg: float = 0.4,
    patience: int = 25,
    tolerance: float = 1e-4,
    local_stride: Sequence[int] = (2, 2, 2),
    global_stride: Sequence[int] = (4, 16, 16),
) -> OptimisedField:
    """Improve a displacement at test time (SAM-InsOpt of SAME++, arXiv 2311.14986).

    A displacement d of the local cells, smoothed three times by a mean of 3 cells along each axis, goes before the
    initial one. Adam lowers the mean of 1 - cosine of the embeddings, plus ``lambda_reg`` times the mean square of d's
    forward differences. The best iterate is taken, so the cost never rises; it is brought to the voxels, smoothed three
    times more, and composed with the initial displacement. Nothing is drawn at random.

    Args:
        fixed: ``local`` (B, C, *cells), and ``global`` if the cost is ``both``, as the network gives them.
        moving: alike, of the moving image on the same grid, not displaced.
        size: voxels of the image along each axis; what cells describe beyond is padding.
        initial: (B, axes, *size), displacement in voxels to start from; none: 0.
        cost: ``local`` similarity or that of ``both`` embeddings, added.
        iterations: at most.
        learning_rate: of Adam, in cells.
        lambda_reg: of d in cells. In coordinates from -1 to 1 along 96 cells 0.44 is 1000, the published weight.
        patience: iterations without an improvement after which to stop; Adam overshoots, and comes back in about 20.
        tolerance: what counts as an improvement.
        local_stride: voxels a local cell along each axis.
        global_stride: voxels a global cell; whole multiples of local ones.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.

    Example:
        >>> maps = {"local": torch.rand(1, 4, 6, 6)}
        >>> found = optimise_instance(maps, maps, size=(12, 12), local_stride=(2, 2), global_stride=(16, 16))
        >>> bool(found.ddf.abs().max() < 1e-3), found.costs[0] < 1e-6
        (True, True)
    """
    _check(cost, {"iterations": iterations, "learning_rate": learning_rate, "patience": patience}, lambda_reg)
    cells = _cells_of(fixed["local"], size, local_stride)
    with torch.inference_mode(False), torch.enable_grad():
        start = None if initial is None else _to_cells(_given(initial), cells, local_stride)
        pairs = {"local": (_cut(_given(fixed["local"]), cells), _cut(_given(moving["local"]), cells))}
        strides = {"local": [1] * len(cells)}
        if cost == "both":
            pairs["global"] = (_given(fixed["global"]), _given(moving["global"]))
            strides["global"] = [coarse // own for coarse, own in zip(global_stride, local_stride, strict=True)]

        def cost_of(field: Tensor) -> Tensor:
            total = _compose(start, field)
            apart = [embedding_distance(*pairs[name], total, stride) for name, stride in strides.items()]
            return torch.stack(apart).sum() + lambda_reg * _roughness(field)

        local = pairs["local"][0]
        free = local.new_zeros(len(local), len(cells), *cells).requires_grad_()
        best, costs = _descend(free, cost_of, iterations, learning_rate, patience, tolerance)
    return OptimisedField(_to_voxels(best, size, local_stride, initial), costs)


def _descend(
    free: Tensor, cost_of: Callable[[Tensor], Tensor], iterations: int, rate: float, patience: int, tolerance: float
) -> tuple[Tensor, list[float]]:
    """Return the smoothed field of the least cost, and all costs."""
    optimizer = torch.optim.Adam([free], lr=rate)
    best, costs, last_improvement = torch.zeros_like(free), [], 0
    least = reference = torch.inf
    for step in range(iterations + 1):  # the first is the start, so that nothing worse can be the result
        field = _smooth(free)
        cost = cost_of(field)
        costs.append(cost.item())
        if costs[-1] < least:
            best, least = field.detach(), costs[-1]
        if least < reference - tolerance:
            reference, last_improvement = least, step
        if step - last_improvement >= patience or step == iterations:
            break
        (free.grad,) = torch.autograd.grad(cost, free)
        optimizer.step()
    return best, costs


def _smooth(field: Tensor) -> Tensor:
    """Three means of 3 neighbours along each axis, the outermost continued; sums of slices, so in a fixed order."""
    for _ in range(SMOOTHINGS):
        for axis in range(2, field.ndim):
            side = field.shape[axis]
            ends = field.narrow(axis, 0, 1), field.narrow(axis, side - 1, 1)
            longer = torch.cat([ends[0], field, ends[1]], dim=axis)
            field = (longer.narrow(axis, 0, side) + field + longer.narrow(axis, 2, side)) / 3
    return field


def _roughness(field: Tensor) -> Tensor:
    """Mean square of forward differences, over channels, cells and axes."""
    steps = [field.diff(dim=axis).square() for axis in range(2, field.ndim) if field.shape[axis] > 1]
    return torch.stack([step.mean() for step in steps]).sum() / (field.ndim - 2)


def _compose(first: Tensor | None, then: Tensor) -> Tensor:
    """Displacement of going where ``then`` leads, and from there where ``first`` leads."""
    return then if first is None else then + FieldWarp()(first, then)


def _to_cells(ddf: Tensor, cells: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Mean displacement of each cell's voxels, in cells."""
    pool = F.avg_pool2d if len(stride) == 2 else F.avg_pool3d
    moved = pool(_at_least_float(ddf), tuple(stride), ceil_mode=True, count_include_pad=False)
    return _cut(moved, cells) / _per_axis(moved, stride)


def _to_voxels(field: Tensor, size: Sequence[int], stride: Sequence[int], initial: Tensor | None) -> Tensor:
    whole = [side * step for side, step in zip(field.shape[2:], stride, strict=True)]
    ddf = F.interpolate(field * _per_axis(field, stride), size=whole, mode=LINEAR[len(whole)], align_corners=False)
    behind = [max(side - own, 0) for side, own in zip(size, whole, strict=True)]
    ddf = F.pad(ddf, [end for side in reversed(behind) for end in (0, side)], mode="replicate")
    return _compose(None if initial is None else _at_least_float(initial), _smooth(_cut(ddf, size)))


def _cells_of(local: Tensor, size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """How many local cells along each axis describe the image; the others describe padding."""
    if local.ndim != len(size) + 2 or len(stride) != len(size):
        raise ValueError(f"size, stride and local must have as many axes, got {size}, {stride}, {local.shape}.")
    wanted = [-(-side // step) for side, step in zip(size, stride, strict=True)]
    cells = tuple(min(pair) for pair in zip(wanted, local.shape[2:], strict=True))
    if any(side // step > own for side, step, own in zip(size, stride, cells, strict=True)):
        raise ValueError(f"local must have {tuple(wanted)} cells for an image of {tuple(size)}, got {local.shape[2:]}.")
    return cells


def _cut(x: Tensor, sides: Sequence[int]) -> Tensor:
    own = (slice(None), slice(None), *(slice(side) for side in sides))
    return x[own]


def _per_axis(like: Tensor, values: Sequence[float]) -> Tensor:
    return like.new_tensor(list(values)).reshape(-1, *[1] * len(values))


def _given(x: Tensor) -> Tensor:
    """Return numbers to compute with, without their history."""
    x = x.detach()
    x = x.clone() if x.is_inference() else x  # what was made in inference mode can never be part of a gradient
    return _at_least_float(x)


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check(cost: str, positive: Mapping[str, float], lambda_reg: float) -> None:
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, got {cost!r}.")
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")
    if not lambda_reg >= 0:
        raise ValueError(f"lambda_reg must be at least 0, got {lambda_reg}.")
