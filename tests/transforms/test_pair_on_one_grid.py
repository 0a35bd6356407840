# SPDX-License-Identifier: Apache-2.0
"""Both scans of a pair lie on the fixed one's grid, wherever they lay before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from monai_ext.errors import InputError
from monai_ext.registration import TransformChain, WorldGrid, resample
from monai_ext.transforms import PairOnOneGridd


def world(degrees: tuple[float, float, float], spacing: tuple[float, float, float], origin: float) -> torch.Tensor:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    return torch.from_numpy(affine)


def scan(seed: int, size: tuple[int, int, int], affine: torch.Tensor) -> MetaTensor:
    generator = torch.Generator().manual_seed(seed)
    return MetaTensor(1 + torch.rand(1, *size, generator=generator), affine=affine)


FIXED, MOVING = world((10, -20, 90), (2, 3, -2), 5), world((-5, 4, 30), (3, 2, 2.5), -8)
MATRIX = world((3, 5, -4), (1.1, 0.9, 1.0), 2)


def make_pair() -> dict[str, object]:
    fixed, moving = scan(0, (14, 10, 12), FIXED), scan(1, (16, 18, 15), MOVING)
    labels = {key: MetaTensor((x > 1.5).float() * 3, affine=x.affine) for key, x in (("r", fixed), ("i", moving))}
    named = {"reference_label": labels["r"], "image_label": labels["i"]}
    return {"image": moving, "reference": fixed, "matrix": MATRIX, **named}


@pytest.mark.parametrize("size", [None, (8, 10, 16)])
def test_the_moving_scan_is_read_where_the_matrix_leads(size: tuple[int, ...] | None) -> None:
    pair = make_pair()
    found = PairOnOneGridd(size)(pair)
    grid, moving = WorldGrid.of(found["reference"]), pair["image"]
    assert isinstance(moving, MetaTensor)
    chain = TransformChain([MATRIX])
    ones = torch.ones_like(moving.as_tensor())
    inside = resample(ones, WorldGrid.of(moving), chain, grid) > 0
    assert torch.equal(found["moving_mask"], inside)
    assert 0.1 < inside.float().mean() < 0.95
    expected = resample(moving, WorldGrid.of(moving), chain, grid)
    # the outermost half voxel is blended with what lies beyond
    voxels = WorldGrid.of(moving).to_voxels(chain(grid.points()))
    deep = ((voxels >= 0) & (voxels <= torch.tensor(moving.shape[1:]) - 1)).all(dim=1).reshape(1, *grid.shape)
    torch.testing.assert_close(found["image"].as_tensor()[deep], expected[deep], atol=2e-5, rtol=0)
    nearest = resample(pair["image_label"], WorldGrid.of(moving), chain, grid, "nearest")  # type: ignore[arg-type]
    same = found["image_label"].as_tensor()[deep] == nearest[deep]
    assert same.float().mean() > 0.99  # halfway between two voxels either is nearest


@pytest.mark.parametrize("size", [None, (8, 10, 16), (15, 9, 12)])
def test_the_fixed_scan_keeps_its_voxels_and_their_places(size: tuple[int, ...] | None) -> None:
    pair = make_pair()
    fixed, cut = pair["reference"], PairOnOneGridd(size)(pair)["reference"]
    assert isinstance(fixed, MetaTensor)
    assert tuple(cut.shape[1:]) == (size or tuple(fixed.shape[1:]))
    places = WorldGrid.of(cut).points()
    voxels = WorldGrid.of(fixed).to_voxels(places)
    torch.testing.assert_close(voxels, voxels.round(), atol=1e-4, rtol=0)
    expected = resample(
        fixed, WorldGrid.of(fixed), TransformChain([]), WorldGrid.of(cut), "nearest", float(fixed.min())
    )
    torch.testing.assert_close(cut.as_tensor(), expected, atol=0, rtol=0)


def test_at_random_every_place_is_kept_sometimes_and_what_is_missing_is_continued_alike() -> None:
    pair = make_pair()
    fixed = pair["reference"]
    assert isinstance(fixed, MetaTensor)
    z, y, x = fixed.shape[1:]
    at_random, middle = PairOnOneGridd((z - 2, y, x + 4), random_center=True), PairOnOneGridd((z - 2, y, x + 4))
    at_random.set_random_state(seed=0)
    starts = set()
    for _ in range(30):
        cut = at_random(pair)["reference"]
        first = WorldGrid.of(fixed).to_voxels(WorldGrid.of(cut).points()).reshape(-1, 3)[0].round().int().tolist()
        starts.add(tuple(first))
        torch.testing.assert_close(cut.as_tensor()[0, :, :, 2:-2], fixed.as_tensor()[0, first[0] : first[0] + z - 2])
    assert starts == {(0, 0, -2), (1, 0, -2), (2, 0, -2)}
    kept = middle(pair)["reference"]
    torch.testing.assert_close(kept.as_tensor()[0, :, :, 2:-2], fixed.as_tensor()[0, 1 : z - 1])


def test_beyond_the_moving_scan_there_is_its_least_value_and_no_label() -> None:
    pair = make_pair()
    pair["matrix"] = world((0, 0, 0), (1, 1, 1), 500)
    found = PairOnOneGridd()(pair)
    assert torch.equal(found["image"].unique(), pair["image"].min()[None])  # type: ignore[attr-defined]
    assert not found["moving_mask"].any()
    assert not found["image_label"].any()


def test_scans_that_do_not_go_together_are_refused() -> None:
    pair = make_pair()
    pair["image"] = torch.cat([pair["image"]] * 2)  # type: ignore[list-item]
    with pytest.raises(InputError, match="the same channels"):
        PairOnOneGridd()(pair)
    with pytest.raises(ValueError, match="positive or None"):
        PairOnOneGridd((4, 0, 4))
