# SPDX-License-Identifier: Apache-2.0
"""The registration by SimpleITK that ours is compared with: it works, so that the comparison is one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from monai_ext.errors import InputError
from monai_ext.registration import WorldDisplacement
from monai_ext.shipping.intensity_registration import IntensityRegistration
from monai_ext.shipping.step_costs import StepCosts
from tests.commands.test_register import by_itk

SHAPE, SPACING = (36, 34, 30), 2.0
MOVED = np.array([[0.9976, -0.0698, 0, 3.0], [0.0698, 0.9976, 0, -2.0], [0, 0, 1, 1.5], [0, 0, 0, 1]])  # turned by 4
SMALL = IntensityRegistration(spacing=SPACING, sampling=0.15, levels=(2, 1), bspline_mm=18.0, bspline_iterations=8)


def places() -> NDArray[np.float64]:
    return SPACING * np.stack(np.indices(SHAPE), axis=-1).reshape(-1, 3).astype(float)


def bump(points: NDArray[np.float64]) -> NDArray[np.float64]:
    near = np.exp(-0.5 * (((points - np.array([36.0, 34.0, 30.0])) / 14) ** 2).sum(axis=1, keepdims=True))
    return 4 * near * np.array([0.7, -0.6, 0.4])


def shown(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """A ball full of blobs, seen at places in mm."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((60, 60, 60)), 2.0)
    inside = map_coordinates(noise / noise.std(), (points + 24).T / SPACING, order=1, mode="nearest")
    away = np.linalg.norm((points - [36, 34, 30]) / [26, 25, 23], axis=1)
    return (100 / (1 + np.exp(20 * (away - 1))) * (2 + inside)).reshape(SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixed scan shows at x what the moving one shows at MOVED (x + bump(x))."""
    folder = tmp_path_factory.mktemp("pair")
    affine = np.diag([SPACING] * 3 + [1.0])
    back = np.linalg.inv(MOVED)
    nib.save(nib.Nifti1Image(shown(places() + bump(places())), affine), folder / "fixed.nii.gz")
    nib.save(nib.Nifti1Image(shown(places() @ back[:3, :3].T + back[:3, 3]), affine), folder / "moving.nii.gz")
    return folder


def test_both_steps_come_nearer_to_a_known_deformation_and_itk_reads_what_is_left(pair: Path, tmp_path: Path) -> None:
    costs = StepCosts()
    found = SMALL(pair / "fixed.nii.gz", pair / "moving.nii.gz", tmp_path, costs)
    points = places()[np.abs(places() - [36, 34, 30]).max(axis=1) < 16][::20]
    truth = (points + bump(points)) @ MOVED[:3, :3].T + MOVED[:3, 3]
    affine, bspline = (step(torch.from_numpy(points)).numpy() for step in found.values())
    errors = [float(np.linalg.norm(mapped - truth, axis=1).mean()) for mapped in (points, affine, bspline)]
    assert errors[2] < 0.6 * errors[1] < 0.6 * 0.6 * errors[0]
    assert set(costs.measured) == {"itk_affine", "itk_bspline"} == set(found)
    np.testing.assert_allclose(by_itk(tmp_path / "itk_affine.tfm", points.tolist()), affine, atol=1e-3)
    np.testing.assert_allclose(by_itk(tmp_path / "itk_bspline.h5", points.tolist()), bspline, atol=1e-3)
    assert isinstance(found["itk_bspline"].parts[0], WorldDisplacement)


def test_what_cannot_be_registered_is_named(pair: Path, tmp_path: Path) -> None:
    picture = tmp_path / "flat.nii.gz"
    sitk.WriteImage(sitk.Image([8, 8], sitk.sitkFloat32), str(picture))
    with pytest.raises(InputError, match=r"flat\.nii\.gz: has 2 axes"):
        SMALL(pair / "fixed.nii.gz", picture, tmp_path / "out")
    with pytest.raises(InputError, match=r"none\.nii\.gz: cannot be read"):
        SMALL(tmp_path / "none.nii.gz", picture, tmp_path / "out")
    assert not (tmp_path / "out").exists()
