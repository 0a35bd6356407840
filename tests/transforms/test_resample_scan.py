# SPDX-License-Identifier: Apache-2.0
"""ResampleScand: every voxel stays at its place in the world, and MONAI Label's texts do no harm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.transforms import ResampleScand

OBLIQUE = torch.tensor(
    [[0.6, -0.8, 0.0, 5.0], [0.8, 0.6, 0.0, -7.0], [0.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64
)


def ramp(shape: tuple[int, ...], spacing: tuple[float, ...]) -> MetaTensor:
    """A scan whose voxels say where in the world they lie, as one number that is linear in the place."""
    affine = OBLIQUE @ torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return MetaTensor(height_at(places(shape, affine)).reshape(1, *shape).float(), affine=affine)


def places(shape: tuple[int, ...], affine: Tensor) -> Tensor:
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1).reshape(-1, 3).double()
    return index @ affine[:3, :3].T + affine[:3, 3]


def height_at(world: Tensor) -> Tensor:
    return world @ torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("spacing", [2.0, [3.0, 1.5, 0.8]])
def test_a_resampled_voxel_shows_what_is_at_its_place(spacing: float | list[float]) -> None:
    shape = (9, 20, 14)
    scan = ramp(shape, (3.0, 0.7, 1.1))
    found = ResampleScand(keys=["image"], spacing=spacing)({"image": scan})["image"]
    world = places(tuple(found.shape[1:]), found.affine)
    voxels = world_to_voxels(world, scan.affine)
    inside = ((voxels >= 0) & (voxels <= torch.tensor(shape) - 1)).all(dim=1)
    assert inside.double().mean() > 0.7
    np.testing.assert_allclose(found.flatten()[inside], height_at(world)[inside], atol=1e-3)
    np.testing.assert_allclose(found.affine[:3, :3].norm(dim=0), np.broadcast_to(spacing, 3), atol=1e-9)


def world_to_voxels(world: Tensor, affine: Tensor) -> Tensor:
    return (world - affine[:3, 3]) @ torch.linalg.inv(affine[:3, :3]).T


def test_without_a_spacing_nothing_changes() -> None:
    scan = ramp((4, 5, 6), (1.0, 2.0, 3.0))
    assert ResampleScand(keys=["image"], spacing=None)({"image": scan})["image"] is scan


def test_a_mask_stays_a_mask_of_its_type() -> None:
    mask = MetaTensor((torch.rand(1, 9, 9, 9) > 0.5).to(torch.uint8), affine=torch.eye(4))
    found = ResampleScand(keys=["body"], spacing=1.7, mode="nearest")({"body": mask})["body"]
    assert found.dtype == torch.uint8
    assert set(found.unique().tolist()) == {0, 1}


def test_texts_of_monai_label_are_left_alone() -> None:
    item = {"image": ramp((4, 4, 4), (1.0, 1.0, 1.0)), "image_path": "somewhere", "image_meta_dict": None}
    resample = ResampleScand(["image", "body"], spacing=2.0, mode=["bilinear", "nearest"], allow_missing_keys=True)
    found = resample(item)
    assert (found["image_path"], found["image"].shape) == ("somewhere", (1, 2, 2, 2))


@pytest.mark.parametrize("spacing", [0.0, [1.0, -1.0, 1.0]])
def test_a_spacing_must_be_positive(spacing: float | list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        ResampleScand(keys=["image"], spacing=spacing)
