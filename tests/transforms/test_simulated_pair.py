# SPDX-License-Identifier: Apache-2.0
"""SimulatedPaird: the copy shows at the true places what the scan shows at the points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.transforms import SimulatedPaird

SHAPE = (20, 36, 28)
OBLIQUE = np.array([[0.6, -0.8, 0.0, 5.0], [0.8, 0.6, 0.0, -7.0], [0.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 1.0]])
AFFINE = OBLIQUE @ np.diag([3.0, 2.0, 2.5, 1.0])


def scan(seed: int = 0) -> MetaTensor:
    """Smooth noise between 0 and 1, with a border of air."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 3.0)
    noise = 0.2 + 0.6 * (noise - noise.min()) / (noise.max() - noise.min())
    inside = np.zeros(SHAPE, dtype=bool)
    inside[2:-2, 3:-3, 3:-3] = True
    return MetaTensor(torch.from_numpy(np.where(inside, noise, 0.0)[None]).float(), affine=torch.from_numpy(AFFINE))


def seen(image: MetaTensor, world: Tensor) -> np.ndarray:
    """What an image shows at places in the world (linear interpolation by SciPy)."""
    voxels = np.linalg.solve(image.affine.numpy(), np.c_[world.numpy(), np.ones(len(world))].T)[:3]
    return map_coordinates(image[0].numpy(), voxels, order=1, mode="constant")


def simulate(image: MetaTensor | None = None, case: str = "a", **settings: Any) -> dict[str, Any]:
    return SimulatedPaird(**{"points": 200, **settings})({"image": scan() if image is None else image, "case": case})


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_the_copy_shows_at_the_truth_what_the_scan_shows_at_the_points(case: str) -> None:
    pair = simulate(case=case, gamma=(1.0, 1.0), noise=0.0, max_degrees=15.0)
    fixed, moving = seen(pair["reference"], pair["points"]), seen(pair["image"], pair["truth"])
    assert fixed.std() > 0.05  # else anything would be near
    assert np.median(np.abs(fixed - moving)) < 0.01
    moved = (pair["points"] - pair["truth"]).norm(dim=1)
    assert moved.mean() > 2.0  # nothing would be near if it were ignored
    assert np.abs(fixed - seen(pair["image"], pair["points"])).mean() > 5 * np.abs(fixed - moving).mean()


def test_distances_change_by_one_factor_within_the_range() -> None:
    pair = simulate(max_scale=0.1)
    ratio = torch.pdist(pair["truth"]) / torch.pdist(pair["points"])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert 0.9 <= float(ratio[0]) <= 1.1


def test_points_lie_in_the_body_and_in_both_scans() -> None:
    pair = simulate(body_threshold=0.1, gamma=(1.0, 1.0), noise=0.0)
    assert (seen(pair["reference"], pair["points"]) > 0.02).all()  # half a voxel from the border at most
    for key, image in (("points", "reference"), ("truth", "image")):
        voxels = np.linalg.solve(AFFINE, np.c_[pair[key].numpy(), np.ones(len(pair[key]))].T)[:3].T
        assert ((voxels >= 0) & (voxels <= np.array(pair[image].shape[1:]) - 1)).all()
    assert len(pair["points"]) == len(pair["point_names"]) == 200


def test_all_is_a_function_of_seed_and_case() -> None:
    first, again, other, reseeded = simulate(), simulate(), simulate(case="b"), simulate(seed=1)
    assert all(torch.equal(first[key], again[key]) for key in ("image", "points", "truth"))
    assert not torch.equal(first["image"], other["image"])
    assert not torch.equal(first["points"], reseeded["points"])


def test_contrast_and_noise_of_the_copy_change() -> None:
    plain, changed = simulate(gamma=(1.0, 1.0), noise=0.0), simulate(gamma=(2.0, 2.0), noise=0.0)
    torch.testing.assert_close(changed["image"].as_tensor(), plain["image"].as_tensor() ** 2)
    noise = simulate(gamma=(1.0, 1.0), noise=0.1)["image"] - plain["image"]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)


def test_a_true_pair_is_left_alone() -> None:
    item = {"image": scan(), "reference": scan(1), "case": "a"}
    assert SimulatedPaird()(item) == item


def test_a_scan_without_a_body_is_named() -> None:
    empty = MetaTensor(torch.zeros(1, *SHAPE), meta={"filename_or_obj": "air.nii.gz"})
    with pytest.raises(InputError, match=r"air\.nii\.gz.*body_threshold"):
        simulate(empty)


@pytest.mark.parametrize(
    ("settings", "named"), [({"points": 0}, "points"), ({"noise": -1.0}, "noise"), ({"gamma": (2.0, 1.0)}, "gamma")]
)
def test_a_wrong_argument_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SimulatedPaird(**settings)
