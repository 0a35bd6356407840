# SPDX-License-Identifier: Apache-2.0
"""Fits against other programs' least squares, gross outliers, and what cannot be fitted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.registration import fit_affine
from monai_ext.registration._weighted_fits import FITS
from tests.registration.anatomy import mapped, turned

BODY = torch.tensor([150.0, 120.0, 250.0], dtype=torch.float64)  # mm, half of a torso


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matches(seed: int, outliers: float, count: int = 300, noise: float = 2.0) -> tuple[Tensor, Tensor]:
    """Pairs through a known map with the noise of cells; some are anywhere in the body."""
    generator = torch.Generator().manual_seed(seed)
    source = (2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1) * BODY
    target = mapped(turned(), source) + noise * random(count, 3, seed=seed + 100)
    wrong = int(outliers * count)
    target[:wrong] = 2 * BODY * torch.rand(wrong, 3, generator=generator, dtype=torch.float64)
    return source, target


def mean_error(matrix: Tensor, truth: Tensor) -> float:
    axis = torch.linspace(-1, 1, 7, dtype=torch.float64)
    body = torch.cartesian_prod(axis, axis, axis) * BODY
    return float((mapped(matrix, body) - mapped(truth, body)).norm(dim=1).mean())


@pytest.mark.parametrize("seed", range(5))
def test_a_fifth_of_gross_outliers_costs_less_than_a_millimetre(seed: int) -> None:
    source, target = matches(seed, outliers=0.2)
    huber, ransac, plain = (fit_affine(source, target, name) for name in ("huber", "ransac", "lstsq"))
    assert mean_error(huber.matrix, turned()) < 1
    assert mean_error(ransac.matrix, turned()) < 1
    assert mean_error(plain.matrix, turned()) > 20
    assert not huber.inliers[:60].any()
    assert huber.inliers[60:].double().mean() > 0.97


def test_ransac_stands_more_outliers_than_huber_and_repeats_itself() -> None:
    source, target = matches(seed=0, outliers=0.6, count=500)
    first, again, other = (fit_affine(source, target, "ransac", seed=seed) for seed in (3, 3, 4))
    assert mean_error(first.matrix, turned()) < 1
    assert torch.equal(first.matrix, again.matrix)
    assert mean_error(other.matrix, turned()) < 1
    assert mean_error(fit_affine(source, target, "huber").matrix, turned()) > 10


@pytest.mark.parametrize("estimator", ["huber", "ransac", "lstsq"])
@pytest.mark.parametrize("model", ["affine", "similarity", "rigid"])
def test_an_exact_map_is_found_exactly(model: str, estimator: str) -> None:
    scales = {"affine": (1.1, 0.9, 1.02), "similarity": (1.2, 1.2, 1.2), "rigid": (1.0, 1.0, 1.0)}[model]
    truth = turned(scales=scales)
    source = matches(seed=1, outliers=0, count=30)[0]
    fit = fit_affine(source, mapped(truth, source), estimator, model)
    torch.testing.assert_close(fit.matrix, truth, atol=1e-9, rtol=0)
    assert fit.inliers.all()
    assert fit.residuals.max() < 1e-9


def test_weighted_fits_are_those_of_numpy_and_scipy() -> None:
    source, target = matches(seed=2, outliers=0.1, count=40)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root = weights.sqrt().numpy()[:, None]
    design = np.concatenate([source.numpy(), np.ones((40, 1))], axis=1)
    expected = np.linalg.lstsq(design * root, target.numpy() * root, rcond=None)[0].T
    np.testing.assert_allclose(FITS["affine"](source, target, weights)[:3], expected, atol=1e-9)
    centred = [points - (points * weights[:, None]).sum(0) / weights.sum() for points in (source, target)]
    rotation = Rotation.align_vectors(centred[1].numpy(), centred[0].numpy(), weights=weights.numpy())[0]
    np.testing.assert_allclose(FITS["rigid"](source, target, weights)[:3, :3], rotation.as_matrix(), atol=1e-9)


def test_a_similarity_has_no_lower_neighbour() -> None:
    source, target = matches(seed=3, outliers=0.1, count=40)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def cost(matrix: Tensor) -> float:
        return float((weights * (mapped(matrix, source) - target).square().sum(dim=1)).sum())

    best = FITS["similarity"](source, target, weights)
    for angles, scale, shift in (((0.1, 0, 0), 1, 0), ((0, -0.1, 0), 1, 0), ((0, 0, 0), 1.001, 0), ((0, 0, 0), 1, 0.1)):
        for sign in (1, -1):
            step = turned(tuple(sign * a for a in angles), (scale**sign,) * 3, (sign * shift,) * 3)
            assert cost(step @ best) > cost(best)


@pytest.mark.parametrize("model", ["similarity", "rigid"])
def test_mirrored_points_give_a_rotation_all_the_same(model: str) -> None:
    source = random(30, 3, seed=5)
    matrix = fit_affine(source, source * torch.tensor([-1.0, 1.0, 1.0]), "lstsq", model).matrix
    assert torch.linalg.det(matrix[:3, :3]) > 0


def test_a_batch_of_sets_is_fitted_as_one_by_one() -> None:
    source, target, ones = random(5, 6, 3, seed=6), random(5, 6, 3, seed=7), torch.ones(6, dtype=torch.float64)
    for fit in FITS.values():
        together = fit(source, target, ones)
        alone = torch.stack([fit(x, y, ones) for x, y in zip(source, target, strict=True)])
        torch.testing.assert_close(together, alone)


def test_what_cannot_be_fitted_is_refused_with_a_remedy() -> None:
    source = random(30, 3, seed=8)
    with pytest.raises(InputError, match="11 matched points, and min_points is 12; lower the threshold"):
        fit_affine(source[:11], source[:11])
    flat = source * torch.tensor([1.0, 1.0, 1e-3])
    with pytest.raises(InputError, match=r"nearly in a plane.*use model=rigid"):
        fit_affine(flat, flat)
    line = source * torch.tensor([1.0, 1e-3, 1e-3])
    with pytest.raises(InputError, match=r"nearly on a line.*smaller stride"):
        fit_affine(line, line, model="rigid")
    with pytest.raises(InputError, match=r"mirrors or deforms.*determinant -1"):
        fit_affine(source, source * torch.tensor([-1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="mirrors or deforms"):
        fit_affine(source, torch.zeros_like(source))
    with pytest.raises(InputError, match="points that agree on one map, and min_points is 30"):
        fit_affine(*matches(seed=0, outliers=0.5, count=40), "ransac", min_points=30)


def test_a_plane_is_enough_for_a_rigid_map() -> None:
    flat = random(30, 3, seed=9) * torch.tensor([1.0, 1.0, 0.0])
    truth = turned(scales=(1.0, 1.0, 1.0))
    torch.testing.assert_close(fit_affine(flat, mapped(truth, flat), model="rigid").matrix, truth, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "mean"}, "estimator must be one of huber, ransac, lstsq"),
        ({"model": "spline"}, "model must be one of affine, similarity, rigid"),
        ({"min_points": 3}, "min_points must be at least 4 for affine"),
        ({"tolerance_mm": 0}, "tolerance_mm must be positive"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict, message: str) -> None:
    points = random(20, 3, seed=0)
    with pytest.raises(ValueError, match=message):
        fit_affine(points, points, **change)


def test_points_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must both be \(N, 3\)"):
        fit_affine(torch.zeros(20, 3), torch.zeros(19, 3))
