# SPDX-License-Identifier: Apache-2.0
"""SimpleITK, which reads our files, maps and resamples as we do; and what it writes is read back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.registration import (
    TransformChain,
    WorldDisplacement,
    WorldGrid,
    invert,
    read_transform,
    resample,
    write_transform,
)
from tests.registration.anatomy import orientations, smooth_field, smooth_values, turned, voxels_of

FIXED_SIZE, MOVING_SIZE = (14, 17, 12), (16, 13, 15)
LPS = np.array([-1.0, -1.0, 1.0])


def grid_of(orientation: Tensor, spacing: tuple[float, ...], angles: tuple[float, ...], size: tuple) -> WorldGrid:
    """A grid whose axes point as asked for, turned obliquely, its middle near the world's origin."""
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = turned(angles, (1.0, 1.0, 1.0))[:3, :3] @ orientation * torch.tensor(spacing)
    middle = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    affine[:3, 3] = torch.tensor([3.0, -5.0, 2.0]) - affine[:3, :3] @ middle
    return WorldGrid(size, affine)


def itk_image(values: Tensor, grid: WorldGrid) -> Any:
    """The image (X, Y, Z) as another program would hold it."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.numpy().transpose(2, 1, 0)))
    affine = np.diag([*LPS, 1.0]) @ grid.affine.numpy()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def resampled_by_itk(image: Any, reference: Any, transform: Any, nearest: bool, padding: float) -> np.ndarray:
    kind = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    result = sitk.Resample(image, reference, transform, kind, padding, image.GetPixelID())
    return sitk.GetArrayFromImage(result).transpose(2, 1, 0)


def mapped_by_itk(transform: Any, points: Tensor) -> np.ndarray:
    return np.array([transform.TransformPoint(point) for point in (points.numpy() * LPS).tolist()]) * LPS


def agrees(path: Path, chain: TransformChain, fixed: WorldGrid, moving: WorldGrid) -> None:
    """Compare points in and around the fixed grid, an image of HU and labels."""
    theirs = sitk.ReadTransform(str(path))
    points = (torch.rand(200, 3, dtype=torch.float64) - 0.5) * 90
    np.testing.assert_allclose(mapped_by_itk(theirs, points), chain(points).numpy(), atol=1e-6)
    image = smooth_values(MOVING_SIZE, 1000.0, seed=4, channels=1).float()
    labels = torch.randint(1, 9, (1, *MOVING_SIZE), dtype=torch.int16)
    reference = itk_image(torch.zeros(FIXED_SIZE), fixed)
    for values, mode, padding in ((image, "linear", -1024.0), (labels, "nearest", 0)):
        ours = resample(values, moving, chain, fixed, mode, padding).numpy()[0]
        other = resampled_by_itk(itk_image(values[0], moving), reference, theirs, mode == "nearest", padding)
        np.testing.assert_allclose(ours, other, atol=1e-3)
        assert 0.2 < (other != padding).mean() < 1


@pytest.mark.parametrize("index", range(48))
def test_itk_agrees_in_all_orientations(index: int, tmp_path: Path) -> None:
    """Anisotropic, oblique grids; the moving one is oriented otherwise."""
    each = orientations()
    fixed = grid_of(each[index], (2.0, 1.5, 3.0), (10.0, -20.0, 15.0), FIXED_SIZE)
    moving = grid_of(each[(5 * index + 3) % 48], (1.6, 2.2, 2.5), (-8.0, 12.0, 5.0), MOVING_SIZE)
    field = smooth_field(fixed, seed=index)
    for name, chain in {
        "affine.tfm": TransformChain([turned()]),
        "field.h5": TransformChain([field]),
        "composite.h5": TransformChain([field, turned()]),
    }.items():
        write_transform(tmp_path / name, chain)
        agrees(tmp_path / name, chain, fixed, moving)


def test_itk_agrees_on_a_coarse_field_and_its_inverse(tmp_path: Path) -> None:
    fixed = grid_of(orientations()[20], (2.0, 1.5, 3.0), (10.0, -20.0, 15.0), FIXED_SIZE)
    moving = grid_of(orientations()[33], (1.6, 2.2, 2.5), (-8.0, 12.0, 5.0), MOVING_SIZE)
    coarse = WorldGrid((2, 3, 2), fixed.affine @ voxels_of((8.0, 8.0, 8.0), (3.5, 3.5, 3.5)))
    chain = TransformChain([smooth_field(coarse, size=1.0, seed=1), turned()])
    inverse = invert(chain, fixed)
    for name, each in (("forward.h5", chain), ("inverse.h5", inverse.transform)):
        write_transform(tmp_path / name, each)
        agrees(tmp_path / name, each, fixed, moving)
    forward, backward = (sitk.ReadTransform(str(tmp_path / name)) for name in ("forward.h5", "inverse.h5"))
    points = fixed.points()[::7]
    there = torch.from_numpy(mapped_by_itk(forward, points))
    wrong = np.linalg.norm(mapped_by_itk(backward, there) - points.numpy(), axis=1)
    assert wrong.max() < 0.1


@pytest.mark.parametrize("orientation", orientations()[::11])
def test_what_is_written_is_read_back(orientation: Tensor, tmp_path: Path) -> None:
    grid = grid_of(orientation, (2.0, 1.5, 3.0), (10.0, -20.0, 15.0), FIXED_SIZE)
    chain = TransformChain([smooth_field(grid, seed=0), turned(), smooth_field(grid, seed=1)])
    write_transform(tmp_path / "chain.h5", chain)
    back = read_transform(tmp_path / "chain.h5")
    assert [type(part) for part in back.parts] == [type(part) for part in chain.parts]
    for ours, theirs in zip(chain.parts, back.parts, strict=True):
        if isinstance(ours, WorldDisplacement):
            assert isinstance(theirs, WorldDisplacement)
            assert theirs.grid.shape == grid.shape
            torch.testing.assert_close(theirs.values, ours.values)
            torch.testing.assert_close(theirs.grid.affine, grid.affine)
        else:
            torch.testing.assert_close(theirs, ours)


def test_an_affine_file_is_exact_to_the_last_bit(tmp_path: Path) -> None:
    write_transform(tmp_path / "affine.tfm", TransformChain([turned()]))
    assert torch.equal(read_transform(tmp_path / "affine.tfm")(torch.zeros(1, 3))[0], turned()[:3, 3])


def test_other_kinds_and_nested_composites_of_itk_are_read(tmp_path: Path) -> None:
    rigid = sitk.Euler3DTransform((5.0, 6.0, 7.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    scaled = sitk.Similarity3DTransform(1.2, (0.0, 0.0, 1.0), 0.4, (1.0, 1.0, 1.0), (9.0, 8.0, 7.0))
    inner = sitk.CompositeTransform(3)
    inner.AddTransform(rigid)
    inner.AddTransform(sitk.TranslationTransform(3, (4.0, -5.0, 6.0)))
    outer = sitk.CompositeTransform(3)
    outer.AddTransform(scaled)
    outer.AddTransform(rigid)
    for name, transform in (("rigid.tfm", rigid), ("inner.h5", inner), ("outer.h5", outer)):
        sitk.WriteTransform(transform, str(tmp_path / name))
        points = torch.randn(20, 3, dtype=torch.float64) * 50
        np.testing.assert_allclose(
            read_transform(tmp_path / name)(points).numpy(), mapped_by_itk(transform, points), atol=1e-9
        )


def test_a_spline_is_refused_with_the_way_out(tmp_path: Path) -> None:
    image = sitk.Image([8, 8, 8], sitk.sitkFloat32)
    sitk.WriteTransform(sitk.BSplineTransformInitializer(image, [2, 2, 2]), str(tmp_path / "spline.tfm"))
    with pytest.raises(InputError, match=r"spline\.tfm: BSplineTransform is not supported.*TransformToDisplacement"):
        read_transform(tmp_path / "spline.tfm")


def test_files_that_are_no_transforms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_transform(tmp_path / "missing.h5")
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"broken\.h5: cannot be read as an ITK transform"):
        read_transform(tmp_path / "broken.h5")
    sitk.WriteTransform(sitk.AffineTransform(2), str(tmp_path / "plane.tfm"))
    with pytest.raises(InputError, match="2 dimensions"):
        read_transform(tmp_path / "plane.tfm")


@pytest.mark.parametrize(("name", "message"), [("field.tfm", r"field is written as \.h5"), ("field", "without suffix")])
def test_a_suffix_that_cannot_hold_a_field_is_refused(name: str, message: str, tmp_path: Path) -> None:
    grid = WorldGrid((2, 2, 2), torch.eye(4))
    with pytest.raises(InputError, match=message):
        write_transform(tmp_path / name, TransformChain([smooth_field(grid)]))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "affine.tfm"
    write_transform(path, TransformChain([turned()]))
    before = path.read_bytes()

    def fail(transform: Any, name: str) -> None:
        Path(name).write_bytes(before[:10])
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteTransform", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_transform(path, TransformChain([torch.eye(4)]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
