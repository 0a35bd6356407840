# SPDX-License-Identifier: Apache-2.0
"""Applying a stored registration: which way points go, where images lie, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import EnsureChannelFirst, LoadImage, SaveImage
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.registration import AppliedRegistration, TransformChain, WorldDisplacement, WorldGrid, write_transform
from tests.registration.anatomy import mapped, smooth_field, turned, voxels_of

FIXED = WorldGrid((20, 22, 24), turned((10.0, 5.0, -8.0), (1.0, 1.0, 1.0)) @ voxels_of((2.0, 1.5, 2.5)))
MOVING = WorldGrid((30, 30, 30), voxels_of((2.0, 2.0, 2.0), (-12.0, -14.0, -6.0)))


def chain() -> TransformChain:
    return TransformChain([smooth_field(FIXED, size=2.0), turned()])


def spot(grid: WorldGrid, place: Tensor, width: float = 4.0) -> Tensor:
    """An image with one bright spot (1, *grid.shape) around a place (3,) in mm."""
    return torch.exp(-0.5 * ((grid.points() - place) / width).square().sum(dim=1)).reshape(1, *grid.shape).float()


def image(values: Tensor, grid: WorldGrid) -> MetaTensor:
    return MetaTensor(values, affine=grid.affine)


def test_points_and_images_go_the_same_way(tmp_path: Path) -> None:
    """A spot of the moving image appears in the fixed one where the inverse takes its place."""
    write_transform(tmp_path / "forward.h5", chain())
    applied = AppliedRegistration(tmp_path / "forward.h5")
    place = FIXED.to_world(torch.tensor([[10.0, 11.0, 12.0]]))
    there = applied.to_moving(place)
    torch.testing.assert_close(there, mapped(turned(), smooth_field(FIXED, size=2.0)(place)))
    warped = applied.image(image(spot(MOVING, there[0]), MOVING), image(torch.zeros(1, *FIXED.shape), FIXED))
    assert warped.shape == (1, *FIXED.shape)
    torch.testing.assert_close(warped.affine, FIXED.affine)
    assert int(warped.argmax()) == (10 * 22 + 11) * 24 + 12
    torch.testing.assert_close(applied.to_fixed(there), place, atol=1e-4, rtol=0)


def test_lps_points_are_the_same_places() -> None:
    applied = AppliedRegistration(chain())
    points = FIXED.to_world(3 + 14 * torch.rand(30, 3, dtype=torch.float64))
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(applied.to_moving(points * flip, space="LPS"), applied.to_moving(points) * flip)
    there = applied.to_moving(points)
    torch.testing.assert_close(applied.to_fixed(there * flip, space="LPS"), points * flip, atol=1e-4, rtol=0)


def test_labels_stay_labels_and_padding_is_what_it_is_told_to_be() -> None:
    applied = AppliedRegistration(TransformChain([turned(shift=(40.0, 0.0, 0.0))]))
    labels = image(torch.randint(1, 4, (1, *MOVING.shape), dtype=torch.uint8), MOVING)
    reference = image(torch.zeros(1, *FIXED.shape), FIXED)
    warped = applied.label(labels, reference)
    assert warped.dtype == torch.uint8
    assert set(warped.unique().tolist()) == {0, 1, 2, 3}
    padded = applied.image(labels, reference, padding_value=-1024)
    assert torch.equal(padded == -1024, warped == 0)


def test_a_saved_result_lies_on_the_reference(tmp_path: Path) -> None:
    """Through the disk with MONAI's own writer, which resamples to what the meta data say is original."""
    for name, grid in (("moving", MOVING), ("fixed", FIXED)):
        values = image(torch.rand(1, *grid.shape), grid)
        SaveImage(tmp_path, output_postfix=name, separate_folder=False, print_log=False)(values)
    moving, fixed = (
        EnsureChannelFirst()(LoadImage()(path))
        for path in (next(tmp_path.glob("*_moving.nii.gz")), next(tmp_path.glob("*_fixed.nii.gz")))
    )
    warped = AppliedRegistration(chain()).image(moving, reference=fixed)
    assert warped.meta["filename_or_obj"] == moving.meta["filename_or_obj"]
    SaveImage(tmp_path, output_postfix="warped", separate_folder=False, print_log=False)(warped)
    stored = LoadImage()(next(tmp_path.glob("*_warped.nii.gz")))
    torch.testing.assert_close(stored.affine, FIXED.affine, atol=1e-4, rtol=0)
    torch.testing.assert_close(stored.as_tensor(), warped[0].as_tensor(), atol=1e-4, rtol=0)


def test_a_point_without_a_place_is_refused() -> None:
    values = torch.zeros(3, *FIXED.shape, dtype=torch.float64)
    values[0, 10:] = 30.0  # torn apart: nothing leads to what lies between
    torn = AppliedRegistration(TransformChain([WorldDisplacement(values, FIXED)]))
    assert torn.to_fixed(FIXED.to_world(torch.tensor([[3.0, 10.0, 10.0]]))).isfinite().all()
    values[0] = -values[0]
    folded = AppliedRegistration(TransformChain([WorldDisplacement(values, FIXED)]))
    beyond = FIXED.to_world(torch.tensor([[19.0, 10.0, 10.0]]))
    with pytest.raises(InputError, match=r"\(row 0\) has no place in the fixed image"):
        folded.to_fixed(beyond)


@pytest.mark.parametrize(
    ("points", "space", "message"),
    [
        (torch.zeros(2, 2), "RAS", "rows of 3 numbers"),
        (torch.tensor([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]]), "RAS", "in row 1"),
        (torch.zeros(1, 3), "voxel", "space must be one of RAS, LPS"),
    ],
)
def test_points_of_another_form_are_refused(points: Tensor, space: str, message: str) -> None:
    for way in (AppliedRegistration(chain()).to_moving, AppliedRegistration(chain()).to_fixed):
        with pytest.raises(InputError, match=message):
            way(points, space)
