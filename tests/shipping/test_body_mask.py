# SPDX-License-Identifier: Apache-2.0
"""The body is what is bright and what that encloses, or what a file in any grid says."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_ext.errors import InputError
from monai_ext.shipping.body_mask import body_mask

NAME = Path("scan.nii.gz")


def tube() -> torch.Tensor:
    """A body with an airway that leaves it at both ends of the last axis."""
    values = torch.zeros(1, 7, 7, 6)
    values[:, 1:6, 1:6] = 1
    values[:, 3, 3] = 0
    return values


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2), (0, 2, 3, 1)])
def test_air_that_a_slice_across_the_body_encloses_belongs_to_it(axes: tuple[int, ...]) -> None:
    affine = torch.eye(4, dtype=torch.float64)[:, [axis - 1 for axis in axes[1:]] + [3]]
    inside = body_mask(MetaTensor(tube().permute(axes), affine=affine), NAME, threshold=0.5)
    assert int(inside.sum()) == 5 * 5 * 6


def test_without_threshold_everything_is_body() -> None:
    assert body_mask(MetaTensor(tube(), affine=torch.eye(4)), NAME).all()


def test_a_file_may_have_another_grid(tmp_path: Path) -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[:2] = 7
    nib.save(nib.Nifti1Image(mask, np.diag([-2.0, 2.0, 2.0, 1.0])), tmp_path / "mask.nii.gz")
    moved = torch.eye(4, dtype=torch.float64)
    moved[0, 3] = -6.0
    inside = body_mask(MetaTensor(tube(), affine=moved), NAME, threshold=0.5, file=tmp_path / "mask.nii.gz")
    x = torch.arange(7) - 6.0
    expected = ((x > -3) & (x <= 1))[:, None, None].expand(7, 7, 6)
    torch.testing.assert_close(inside, expected)


def test_an_empty_body_is_refused(tmp_path: Path) -> None:
    scan = MetaTensor(tube(), affine=torch.eye(4))
    with pytest.raises(InputError, match=r"scan\.nii\.gz: no voxel is above body_threshold 3; lower it"):
        body_mask(scan, NAME, threshold=3)
    nib.save(nib.Nifti1Image(np.zeros((7, 7, 6), np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=r"mask\.nii\.gz: marks no voxel of scan\.nii\.gz"):
        body_mask(scan, NAME, file=tmp_path / "mask.nii.gz")
