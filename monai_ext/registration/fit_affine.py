# SPDX-License-Identifier: Apache-2.0
"""Affine, similarity and rigid maps fitted to pairs of points of which some may be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.registration._weighted_fits import FITS, FREE_DIRECTIONS, check_names

HUBER = 1.345  # standard deviations beyond which a residual counts less (Huber 1981)
MAD_OF_NORMAL = 0.6745
TRIM = 3 * 1.4826  # medians beyond which a pair is an outlier: three standard deviations
SMALLEST_MM = 1e-3  # keeps an exact fit from calling rounding an outlier
ROUNDS = 100
CONVERGED_MM = 1e-6
TRIALS = 2000
RESIDUALS_AT_ONCE = 1 << 21
FLATTEST = 0.01  # thickness of the points' cloud, relative to its width, below which a direction is not determined
SCALES = (0.2, 5.0)  # no two bodies differ more


class AffineFit(NamedTuple):
    """A fitted map.

    Attributes:
        matrix: (4, 4), from source to target mm.
        inliers: (N,) which pairs it rests on.
        residuals: (N,) mm between each mapped source and its target.
    """

    matrix: Tensor
    inliers: Tensor
    residuals: Tensor


def fit_affine(
    source: Tensor,
    target: Tensor,
    estimator: str = "huber",
    model: str = "affine",
    min_points: int = 12,
    tolerance_mm: float = 8.0,
    seed: int = 0,
) -> AffineFit:
    """Fit ``target = A source + t`` to pairs of points.

    - ``huber``: least squares, repeated with Huber's weights until nothing changes; then once more, without the
      outliers, with all others alike. Good for up to a third of gross outliers.
    - ``ransac``: of many maps through as few pairs as possible the one that fits most pairs, then least squares on
      these. Good for more outliers; needs ``tolerance_mm``, and is repeatable by its seed.
    - ``lstsq``: plain least squares, which a single gross outlier can move by any amount.

    Args:
        source: (N, 3) mm.
        target: (N, 3) mm.
        estimator: see above.
        model: ``affine`` (12 numbers), ``similarity`` (rotation, translation, one scale) or ``rigid``; the last two
            never mirror (Umeyama 1991, https://doi.org/10.1109/34.88573).
        min_points: fewer pairs, or fewer inliers, are refused.
        tolerance_mm: of ``ransac``: pairs with a smaller residual agree with a map.
        seed: of ``ransac``.

    Raises:
        InputError: too few pairs or inliers, points that do not span what the model needs, or a map that mirrors or
            flattens.
        ValueError: unknown names, numbers out of range, or points of another shape.

    Example:
        >>> source = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> fit = fit_affine(source, 1.5 * source + 3)
        >>> fit.matrix.round(decimals=6)[0].tolist()
        [1.5, 0.0, 0.0, 3.0]
    """
    _check(source, target, estimator, model, min_points, tolerance_mm)
    source, target = source.double(), target.double()
    everything = torch.ones(len(source), dtype=torch.bool, device=source.device)
    _require_enough(everything, source, model, min_points, "matched points")
    fit = FITS[model]
    if estimator == "huber":
        inliers = _huber_inliers(source, target, fit)
    elif estimator == "ransac":
        inliers = _ransac_inliers(source, target, fit, FREE_DIRECTIONS[model] + 1, tolerance_mm, seed)
    else:
        inliers = everything
    _require_enough(inliers, source, model, min_points, "points that agree on one map")
    matrix = fit(source, target, inliers.double())
    _require_sound(matrix)
    return AffineFit(matrix, inliers, residuals_of(matrix, source, target))


def residuals_of(matrix: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return mm (..., N) between sources (N, 3) mapped by matrices (..., 4, 4) and their targets (N, 3)."""
    mapped = source @ matrix[..., :3, :3].transpose(-1, -2) + matrix[..., None, :3, 3]
    return (mapped - target).norm(dim=-1)


def _huber_inliers(source: Tensor, target: Tensor, fit: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    weights = source.new_ones(len(source))
    before = residuals_of(fit(source, target, weights), source, target)
    for _ in range(ROUNDS):
        scale = (before.median() / MAD_OF_NORMAL).clamp(min=SMALLEST_MM)
        weights = (HUBER * scale / before.clamp(min=1e-12)).clamp(max=1)
        residuals = residuals_of(fit(source, target, weights), source, target)
        change, before = (residuals - before).abs().max(), residuals
        if change < CONVERGED_MM:
            break
    return before < (TRIM * before.median()).clamp(min=SMALLEST_MM)


def _ransac_inliers(
    source: Tensor,
    target: Tensor,
    fit: Callable[[Tensor, Tensor, Tensor], Tensor],
    sample: int,
    tolerance_mm: float,
    seed: int,
) -> Tensor:
    """Return what agrees with the best of many maps, each through a few pairs drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(source), (TRIALS, sample), generator=generator).to(source.device)
    ones = source.new_ones(sample)
    matrices = torch.cat([fit(source[some], target[some], ones) for some in drawn.split(TRIALS // 4)])
    step = max(1, RESIDUALS_AT_ONCE // len(source))
    costs = torch.cat([
        residuals_of(some, source, target).nan_to_num(torch.inf).clamp(max=tolerance_mm).square().sum(dim=1)
        for some in matrices.split(step)
    ])  # fmt: skip
    matrix = matrices[costs.argmin()]
    inliers = residuals_of(matrix, source, target) < tolerance_mm
    if int(inliers.sum()) > sample:  # a map through few pairs is inexact: once more from all that it has found
        inliers = residuals_of(fit(source, target, inliers.double()), source, target) < tolerance_mm
    return inliers


def _require_enough(kept: Tensor, source: Tensor, model: str, min_points: int, what: str) -> None:
    count = int(kept.sum())
    if count < min_points:
        raise InputError(
            f"{count} {what}, and min_points is {min_points}; lower the threshold or the stride, or check that both "
            "volumes show the same part of the body."
        )
    points = source[kept]
    widths = torch.linalg.svdvals(points - points.mean(dim=0))
    needed = FREE_DIRECTIONS[model]
    if widths[0] == 0 or widths[needed - 1] < FLATTEST * widths[0]:
        shape = "in a plane" if needed == 3 and widths[1] >= FLATTEST * widths[0] else "on a line"
        remedy = "use model=rigid or a smaller stride" if needed == 3 else "use a smaller stride"
        raise InputError(f"the {count} {what} lie nearly {shape}, which does not determine a map ({model}); {remedy}.")


def _require_sound(matrix: Tensor) -> None:
    linear = matrix[:3, :3]
    scales = torch.linalg.svdvals(linear)
    if torch.linalg.det(linear) <= 0 or scales[-1] < SCALES[0] or scales[0] > SCALES[1]:
        raise InputError(
            f"the fitted map mirrors or deforms beyond reason (determinant {float(torch.linalg.det(linear)):.3g}, "
            f"scales {float(scales[-1]):.3g} to {float(scales[0]):.3g}): the matches are wrong; raise the threshold, "
            "or use model=rigid."
        )


def _check(source: Tensor, target: Tensor, estimator: str, model: str, min_points: int, tolerance_mm: float) -> None:
    if source.ndim != 2 or source.shape[1] != 3 or source.shape != target.shape:
        raise ValueError(f"source and target must both be (N, 3), got {tuple(source.shape)}, {tuple(target.shape)}.")
    check_names(estimator, model, min_points)
    if tolerance_mm <= 0:
        raise ValueError(f"tolerance_mm must be positive, got {tolerance_mm}.")
