# SPDX-License-Identifier: Apache-2.0
"""Patch pairs: the same place has the same value in both, whatever the scan, and nothing is too small."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from scipy.ndimage import map_coordinates
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.losses import NegativeMining, PatchPairInfoNCE
from monai_ext.transforms import RandOverlapPatchPaird


def cutter(seed: int = 0, **settings: object) -> RandOverlapPatchPaird:
    chosen = {"keys": ["image"], "patch_size": (8, 16, 12), **settings}
    return RandOverlapPatchPaird(**chosen).set_random_state(seed)  # type: ignore[arg-type, return-value]


def oblique(spacing: tuple[float, ...] = (3.0, 0.9, 1.1)) -> Tensor:
    affine = torch.eye(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    affine[:3, :3] = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    affine[:3, :3] *= torch.tensor(spacing)
    affine[:3, 3] = torch.tensor([-200.0, 50.0, 900.0])
    return affine


def positions(shape: tuple[int, ...]) -> Tensor:
    axes = [torch.arange(side, dtype=torch.float64) for side in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def mapped(affine: Tensor, points: Tensor) -> Tensor:
    return points @ affine[:-1, :-1].T + affine[:-1, -1]


def world_ramp(shape: tuple[int, ...] = (20, 60, 50), affine: Tensor | None = None) -> MetaTensor:
    """Three channels that hold the place in the world themselves."""
    affine = oblique() if affine is None else affine
    return MetaTensor(mapped(affine, positions(shape)).movedim(-1, 0), affine=affine)


@pytest.mark.parametrize("rotate_range", [0.0, 0.3])
def test_every_voxel_shows_the_place_that_its_affine_says(rotate_range: float) -> None:
    for seed in range(5):
        for view in cutter(seed, rotate_range=rotate_range)({"image": world_ramp()}):
            inside = view["body"][0] > 0
            assert inside.double().mean() > 0.5
            place = mapped(view["affine"], positions((8, 16, 12))).movedim(-1, 0)
            voxels = mapped(torch.linalg.inv(oblique()), place.movedim(0, -1))
            # at the scan's faces, half a voxel beyond the outermost centres, values are continued
            between = ((voxels >= 0) & (voxels <= torch.tensor([19, 59, 49]))).all(dim=-1)
            torch.testing.assert_close(view["image"].as_tensor()[:, between], place[:, between], atol=1e-9, rtol=0)
            torch.testing.assert_close(view["image"].affine, view["affine"])


def test_the_same_place_has_the_same_value_in_both_patches() -> None:
    ramp = world_ramp((40, 100, 90))
    first, second = cutter(3, rotate_range=0.2, overlap_prob=1.0)({"image": ramp})
    there = mapped(torch.linalg.solve(second["affine"], first["affine"]), positions((8, 16, 12))).reshape(-1, 3)
    shared = ((there >= 0) & (there <= torch.tensor([7, 15, 11]))).all(dim=1)
    assert shared.sum() > 20
    values = second["image"].as_tensor().numpy()
    for channel, expected in zip(values, first["image"].as_tensor().flatten(1), strict=True):
        found = map_coordinates(channel, there[shared].numpy().T, order=1)
        np.testing.assert_allclose(found, expected[shared].numpy(), atol=1e-9)


def test_values_are_those_of_linear_interpolation() -> None:
    image = MetaTensor(torch.rand(2, 12, 30, 31), affine=oblique())
    for view in cutter(1, rotate_range=0.1)({"image": image}):
        voxels = mapped(torch.linalg.solve(oblique(), view["affine"]), positions((8, 16, 12))).reshape(-1, 3).numpy()
        inside = (view["body"] > 0).flatten().numpy()
        for channel, patch in zip(image.as_tensor().numpy(), view["image"].as_tensor(), strict=True):
            expected = map_coordinates(channel, voxels.T, order=1, mode="nearest")
            np.testing.assert_allclose(patch.flatten().numpy()[inside], expected[inside], atol=1e-4)
            assert (patch.flatten().numpy()[~inside] == 0).all()


def test_spacing_and_direction_follow_the_settings() -> None:
    spacings = []
    for seed in range(30):
        for view in cutter(seed, base_spacing=1.5, scale=(0.5, 1.2))({"image": world_ramp((40, 90, 90))}):
            matrix = view["affine"][:3, :3]
            spacing = matrix.norm(dim=0)
            torch.testing.assert_close(spacing, spacing[:1].expand(3))
            torch.testing.assert_close(matrix / spacing, oblique()[:3, :3] / torch.tensor([3.0, 0.9, 1.1]))
            spacings.append(float(spacing[0]))
    assert 0.75 <= min(spacings) < 0.85
    assert 1.7 < max(spacings) <= 1.8


def test_turned_patches_keep_right_angles_and_the_range() -> None:
    angles = []
    for seed in range(20):
        for view in cutter(seed, rotate_range=0.2)({"image": torch.rand(1, 40, 60, 60)}):
            matrix = view["affine"][:3, :3] / view["affine"][:3, :3].norm(dim=0)
            torch.testing.assert_close(matrix.T @ matrix, torch.eye(3).double())
            angles.append(math.acos((float(matrix.trace()) - 1) / 2))
    assert 0.1 < max(angles) <= 0.2 * math.sqrt(3) + 1e-6


@pytest.mark.parametrize("shape", [(24, 60, 50), (9, 18, 14), (4, 40, 40), (5, 6, 7)])
def test_overlapping_patches_have_anchors_whatever_the_size(shape: tuple[int, ...]) -> None:
    image = {"image": MetaTensor(torch.rand(1, *shape), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))}
    strides = {"local_stride": (2, 2, 2), "global_stride": (4, 4, 4)}
    loss = PatchPairInfoNCE(NegativeMining(local_ignore_mm=1.0, global_ignore_mm=1.0), **strides)
    maps = {"local": torch.randn(2, 4, 4, 8, 6), "global": torch.randn(2, 4, 2, 4, 3)}
    maps = {name: torch.nn.functional.normalize(x, dim=1) for name, x in maps.items()}
    for seed in range(20):
        views = list_data_collate(cutter(seed, overlap_prob=1.0)(image))
        loss(maps, {"affine": views["affine"], "body": views["body"]})
        assert loss.terms["local_first"] > 0
        assert loss.terms["local_second"] > 0


def test_without_a_shared_place_patches_may_be_apart() -> None:
    apart = 0
    for seed in range(20):
        first, second = cutter(seed, overlap_prob=0.0)({"image": torch.rand(1, 60, 200, 200)})
        there = mapped(torch.linalg.solve(second["affine"], first["affine"]), positions((8, 16, 12))).reshape(-1, 3)
        apart += not bool(((there >= 0) & (there <= torch.tensor([7, 15, 11]))).all(dim=1).any())
    assert apart > 10


def test_a_large_scan_is_never_left() -> None:
    for seed in range(20):
        for view in cutter(seed)({"image": torch.rand(1, 24, 60, 60)}):
            assert (view["body"] == 1).all()


def test_a_small_scan_is_in_the_middle_of_patches_of_the_smallest_scale() -> None:
    image = MetaTensor(torch.ones(1, 4, 8, 40), affine=torch.diag(torch.tensor([2.4, 2.4, 2.4, 1.0])))
    for view in cutter(0, scale=(0.8, 1.2), padding_value=-50.0)({"image": image}):
        torch.testing.assert_close(view["affine"][:3, :3], 1.6 * torch.eye(3).double())
        body = view["body"][0].bool()
        assert body.any(dim=2).any(dim=1).tolist() == [0] + 6 * [1] + [0]
        assert body.any(dim=2).any(dim=0).tolist() == 2 * [0] + 12 * [1] + 2 * [0]
        torch.testing.assert_close(view["image"].as_tensor()[0][body], torch.ones(int(body.sum())))
        assert (view["image"].as_tensor()[0][~body] == -50).all()


def test_the_scale_is_lowered_until_the_scan_is_large_enough() -> None:
    image = MetaTensor(torch.rand(1, 8, 16, 12), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    for seed in range(10):
        for view in cutter(seed)({"image": image}):
            assert 1.6 - 1e-9 <= float(view["affine"][0, 0]) <= 2.0 + 1e-9
            assert (view["body"] == 1).all()


def test_the_body_is_that_of_the_mask() -> None:
    mask = torch.zeros(1, 24, 60, 60)
    mask[:, :, 20:40, 10:50] = 1
    first, _ = cutter(0, body_key="mask")({"image": torch.rand(1, 24, 60, 60), "mask": mask, "name": "a"})
    voxels = mapped(first["affine"], positions((8, 16, 12))).round().long().clamp(min=0)
    z, y, x = (axis.clamp(max=last) for axis, last in zip(voxels.unbind(-1), (23, 59, 59), strict=True))
    assert torch.equal(first["body"][0], mask[0, z, y, x])
    assert set(first) == {"image", "affine", "body", "name"}
    again = cutter(0, body_key="body")({"image": torch.rand(1, 24, 60, 60), "body": mask})[0]
    assert torch.equal(again["body"], first["body"])


def test_or_where_the_image_is_above_a_threshold() -> None:
    for view in cutter(0, body_threshold=0.4)({"image": torch.rand(1, 24, 60, 60)}):
        assert torch.equal(view["body"], (view["image"].as_tensor() > 0.4).float())


def test_images_are_cut_alike_and_the_seed_decides() -> None:
    image = torch.rand(1, 24, 60, 60)
    data = {"image": image, "other": (255 * image).to(torch.int16)}
    first, second = cutter(5, keys=["image", "other"])(data)
    torch.testing.assert_close(first["other"].as_tensor(), 255 * first["image"].as_tensor(), atol=1.0, rtol=0)
    again = cutter(5, keys=["image", "other"])(data)
    assert torch.equal(again[1]["image"], second["image"])
    assert torch.equal(again[1]["affine"], second["affine"])
    assert not torch.equal(cutter(6)(data)[0]["affine"], first["affine"])


def test_a_batch_has_pairs_one_after_the_other() -> None:
    scans = [
        MetaTensor(torch.full((1, 24, 60, 60), float(value)), meta={"filename_or_obj": f"{value}.nii"})
        for value in (1, 2)
    ]
    batch = list_data_collate([cutter(value)({"image": scan}) for value, scan in enumerate(scans)])
    assert batch["image"].shape == (4, 1, 8, 16, 12)
    assert batch["image"].amax(dim=(1, 2, 3, 4)).round().tolist() == [1, 1, 2, 2]
    assert batch["affine"].shape == (4, 4, 4)
    assert batch["image"].meta["filename_or_obj"] == ["1.nii", "1.nii", "2.nii", "2.nii"]


def test_pictures_are_cut_like_volumes() -> None:
    picture = MetaTensor(torch.rand(3, 40, 50).double(), affine=torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0])))
    for view in cutter(0, patch_size=(16, 12), rotate_range=0.3)({"image": picture}):
        assert view["affine"].shape == (3, 3)
        voxels = mapped(view["affine"], positions((16, 12))).reshape(-1, 2).numpy() / 2
        inside = (view["body"] > 0).flatten().numpy()
        expected = map_coordinates(picture.as_tensor()[0].numpy(), voxels.T, order=1, mode="nearest")
        np.testing.assert_allclose(view["image"].as_tensor()[0].flatten().numpy()[inside], expected[inside], atol=1e-9)


@pytest.mark.parametrize(
    ("data", "settings", "told"),
    [
        ({"image": torch.rand(1, 9, 9)}, {}, r"image must have 3 axes behind the channels.*got \(9, 9\)"),
        ({"image": torch.rand(1, 9, 0, 9)}, {}, "image must have 3 axes"),
        (
            {"image": torch.rand(1, 9, 9, 9), "mask": torch.rand(1, 9, 9, 8)},
            {"body_key": "mask"},
            "mask must be on the voxels",
        ),
    ],
)
def test_data_that_does_not_fit_is_named(data: dict, settings: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        cutter(**settings)(data)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"patch_size": (8,)}, "patch_size"),
        ({"patch_size": (8, 0, 8)}, "patch_size"),
        ({"base_spacing": 0.0}, "base_spacing"),
        ({"scale": (1.2, 0.8)}, "scale"),
        ({"overlap_prob": 1.5}, "overlap_prob"),
        ({"rotate_range": -0.1}, "rotate_range"),
        ({"body_key": "mask", "body_threshold": 1.0}, "not both"),
    ],
)
def test_a_bad_argument_is_named(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cutter(**settings)
