# SPDX-License-Identifier: Apache-2.0
"""RandSmoothWarpd: the copy shows at the points what the scan shows at the true places, and nothing folds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates

from monai_ext.errors import InputError
from monai_ext.transforms import RandSmoothWarpd
from tests.transforms.test_simulated_pair import AFFINE, SHAPE, scan, seen

MODERATE: dict[str, Any] = {"degrees": 6.0, "shift_mm": 2.0, "warp_mm": 3.0, "warp_width_mm": (8.0, 14.0)}


def warp(seed: int = 0, image: MetaTensor | None = None, **settings: Any) -> tuple[dict[str, Any], RandSmoothWarpd]:
    transform = RandSmoothWarpd(**{**MODERATE, "points": 200, **settings}).set_random_state(seed)
    return transform({"image": scan() if image is None else image, "case": "a"}), transform


def in_voxels(points: torch.Tensor) -> np.ndarray:
    return np.linalg.solve(AFFINE, np.c_[points.numpy(), np.ones(len(points))].T)[:3].T


def naive_map(transform: RandSmoothWarpd, point: np.ndarray) -> np.ndarray:
    """The formula, one bump after the other."""
    drawn = transform.mapping
    found = drawn.matrix @ point + drawn.offset
    for centre, vector, width in zip(drawn.centres, drawn.vectors, drawn.widths, strict=True):
        found = found + vector * np.exp(-((point - centre) ** 2).sum() / (2 * width**2))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_copy_shows_at_the_points_what_the_scan_shows_at_the_truth(seed: int) -> None:
    pair, _ = warp(seed)
    fixed, moving = seen(pair["reference"], pair["points"]), seen(pair["image"], pair["truth"])
    assert fixed.std() > 0.05  # else anything would be near
    apart = np.median(np.abs(fixed - moving))
    assert apart < 0.01
    assert np.median(np.abs(fixed - seen(pair["image"], pair["points"]))) > 5 * apart  # if the map were ignored


def test_the_scan_itself_stays_as_it_was() -> None:
    pair, _ = warp()
    assert torch.equal(pair["image"], scan())
    assert torch.equal(pair["reference"].affine, pair["image"].affine)


def test_points_obey_the_formula_exactly() -> None:
    pair, transform = warp()
    expected = [naive_map(transform, point) for point in pair["points"].numpy()]
    np.testing.assert_allclose(pair["truth"].numpy(), expected, atol=1e-9, rtol=0)
    affine_alone = pair["points"].numpy() @ transform.mapping.matrix.T + transform.mapping.offset
    assert np.linalg.norm(pair["truth"].numpy() - affine_alone, axis=1).max() > 1.0  # there is a warp


def test_a_warp_of_nothing_is_the_scan() -> None:
    pair, _ = warp(degrees=0.0, scale=0.0, shift_mm=0.0, warp_mm=0.0)
    torch.testing.assert_close(pair["reference"].as_tensor(), pair["image"].as_tensor(), atol=1e-5, rtol=0)
    torch.testing.assert_close(pair["truth"], pair["points"])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_violent_warp_is_weakened_until_nothing_folds(seed: int) -> None:
    """Forward differences of the map itself, at steps far below a bump's width, not its formula's Jacobian."""
    _, transform = warp(seed, warp_mm=60.0, degrees=0.0, scale=0.0)
    corner = AFFINE @ np.array([0, 0, 0, 1.0])
    places = corner[:3] + (np.random.default_rng(0).uniform(0, 1, (4000, 3)) * (np.array(SHAPE) - 1)) @ AFFINE[:3, :3].T
    step = 1e-4
    here = transform.mapping(places)
    columns = [(transform.mapping(places + step * axis) - here) / step for axis in np.eye(3)]
    determinant = np.linalg.det(np.stack(columns, axis=-1))
    assert determinant.min() > 0.2
    assert determinant.min() < 0.9  # weakened, not removed


def test_points_lie_in_the_body_of_the_copy_and_inside_both_scans() -> None:
    pair, _ = warp(body_threshold=0.1)
    assert (seen(pair["reference"], pair["points"]) > 0.02).all()  # half a voxel from the border at most
    for places in (in_voxels(pair["points"]), in_voxels(pair["truth"])):
        assert ((places >= 0) & (places <= np.array(SHAPE) - 1)).all()
    assert len(pair["points"]) == len(pair["truth"]) == len(pair["point_names"]) == 200


def test_each_voxel_of_the_copy_has_the_label_of_the_voxel_that_the_map_leads_to() -> None:
    image = scan()
    label = MetaTensor(torch.randint(0, 5, (1, *SHAPE), dtype=torch.uint8), affine=image.affine)
    transform = RandSmoothWarpd(**MODERATE).set_random_state(0)
    pair = transform({"image": image, "label": label})
    assert "label" not in pair
    assert torch.equal(pair["image_label"], label)
    world = np.stack(np.indices(SHAPE), axis=-1).reshape(-1, 3) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    led = in_voxels(torch.from_numpy(transform.mapping(world)))
    expected = map_coordinates(label[0].numpy(), led.T, order=0, mode="constant").reshape(SHAPE)
    inside = ((led > 0) & (led < np.array(SHAPE) - 1)).all(axis=1).reshape(SHAPE)
    assert inside.mean() > 0.7
    assert (pair["reference_label"][0].numpy() == expected)[inside].mean() > 0.999  # halves are rounded either way
    assert pair["reference_label"].dtype == torch.uint8


def test_the_same_state_gives_the_same_pair_and_the_next_call_another_one() -> None:
    first, transform = warp(3)
    again, _ = warp(3)
    following, other = transform({"image": scan()}), warp(4)[0]
    assert all(torch.equal(first[key], again[key]) for key in ("reference", "points", "truth"))
    assert not torch.equal(first["reference"], following["reference"])
    assert not torch.equal(first["reference"], other["reference"])


def test_contrast_and_noise_of_the_copy_change() -> None:
    plain, changed = warp()[0]["reference"].as_tensor(), warp(gamma=(2.0, 2.0))[0]["reference"].as_tensor()
    torch.testing.assert_close(changed, plain**2)
    assert float((warp(noise=0.1)[0]["reference"].as_tensor() - plain).std()) == pytest.approx(0.1, rel=0.05)


def test_what_lies_beyond_the_scan_is_its_least_value() -> None:
    pair, _ = warp(image=scan() - 3.0, shift_mm=60.0, body_threshold=-2.9)
    assert float(pair["reference"].min()) == pytest.approx(-3.0)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (MetaTensor(torch.zeros(1, *SHAPE), meta={"filename_or_obj": "air.nii.gz"}), r"air\.nii\.gz.*body_threshold"),
        (MetaTensor(torch.ones(1, 8, 8), meta={"filename_or_obj": "flat.png"}), r"flat\.png.*volumes"),
    ],
)
def test_a_scan_that_no_pair_can_be_made_of_is_named(image: MetaTensor, told: str) -> None:
    with pytest.raises(InputError, match=told):
        warp(image=image)


def test_labels_of_another_size_are_named() -> None:
    label = MetaTensor(torch.ones(1, 4, 4, 4), meta={"filename_or_obj": "label.nii.gz"})
    with pytest.raises(InputError, match=r"label\.nii\.gz.*\(20, 36, 28\), got \(4, 4, 4\)"):
        RandSmoothWarpd(**MODERATE)({"image": scan(), "label": label})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"points": 0}, "points"),
        ({"degrees": -1.0}, "degrees"),
        ({"scale": 1.0}, "scale"),
        ({"warp_width_mm": (9.0, 5.0)}, "warp_width_mm"),
        ({"gamma": (0.0, 1.0)}, "gamma"),
        ({"keys": ["image", "other"]}, "one key"),
    ],
)
def test_a_wrong_argument_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RandSmoothWarpd(**settings)
