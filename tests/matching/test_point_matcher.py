# SPDX-License-Identifier: Apache-2.0
"""PointMatcher against the published search written plainly, and its laws of space, chunks and doubt."""

from __future__ import annotations

import math
from itertools import permutations, product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.matching import PointMatcher, VolumeEmbedding
from monai_ext.matching._robust_affine import robust_map
from monai_ext.matching._search import best_cells, describe, scores_at

CUBES = {"local_stride": (2, 2, 2), "global_stride": (4, 4, 4)}


def smooth(channels: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Unit vectors that change slowly, as a network's do."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, channels, *[max(2, side // 3) for side in shape], generator=generator)
    return F.normalize(F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0], dim=0)


def outputs(local: tuple = (8, 16, 16), coarse: tuple = (4, 2, 2), seed: int = 0, semantic: bool = False) -> dict:
    names = {"local": local, "global": coarse} | ({"semantic": local} if semantic else {})
    return {name: smooth(12, shape, seed + index) for index, (name, shape) in enumerate(names.items())}


def affine(spacing: tuple[float, ...] = (2.0, 2.0, 2.0), offset: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Tensor:
    matrix = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    matrix[:3, 3] = torch.tensor(offset)
    return matrix


def published(fixed: dict, moving: dict, voxels: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch the global embedding to the local grid, restore its length, and search the mean of both similarities."""
    vectors, keys = [], []
    for maps in (fixed, moving):
        size = maps["local"].shape[1:]
        stretched = F.interpolate(maps["global"][None], size=size, mode="trilinear", align_corners=False)[0]
        keys.append([F.normalize(stretched, dim=0), *(maps[name] for name in ("local", "semantic") if name in maps)])
    for voxel in voxels.tolist():
        cell = [int(position // 2) for position in voxel]
        vectors.append([maps[(slice(None), *cell)] for maps in keys[0]])
    cells, scores = [], []
    for vector in vectors:
        similarity = sum(torch.einsum("c,czyx->zyx", a, b) for a, b in zip(vector, keys[1], strict=True)) / len(keys[1])
        cells.append(torch.stack(torch.unravel_index(similarity.argmax(), similarity.shape)))
        scores.append(similarity.max())
    return torch.stack(cells), torch.stack(scores)


@pytest.mark.parametrize("semantic", [False, True])
def test_cells_are_those_of_the_published_search(semantic: bool) -> None:
    fixed, moving = outputs(seed=0, semantic=semantic), outputs((6, 24, 16), (3, 3, 2), seed=5, semantic=semantic)
    voxels = torch.cartesian_prod(torch.arange(0, 16, 3), torch.arange(1, 32, 5), torch.arange(0, 32, 7))
    cells, scores = published(fixed, moving, voxels)
    matched = PointMatcher(query="cell", refine=False, min_score=-1)(
        VolumeEmbedding(fixed, torch.eye(4)), VolumeEmbedding(moving, torch.eye(4)), voxels.double()
    )
    torch.testing.assert_close(matched.points, 2 * cells.double() + 0.5)
    torch.testing.assert_close(matched.score, scores, atol=1e-6, rtol=0)
    together = (matched.local_score * (2 if semantic else 1) + matched.global_score) / (3 if semantic else 2)
    torch.testing.assert_close(together, scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("budget_mb", [1e-6, 0.05, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_memory_budget_changes_no_cell(budget_mb: float, dtype: torch.dtype) -> None:
    volumes = [VolumeEmbedding({n: x.to(dtype) for n, x in outputs(seed=s).items()}, affine()) for s in (0, 7)]
    points = volumes[0].to_world(torch.rand(300, 3, dtype=torch.float64) * 31)
    whole, chunked = (PointMatcher(refine=False, budget_mb=mb)(*volumes, points) for mb in (64, budget_mb))
    assert torch.equal(whole.points, chunked.points)
    torch.testing.assert_close(whole.score, chunked.score, atol=1e-6, rtol=0)


@pytest.mark.parametrize("budget_mb", [1e-6, 64])
def test_of_equal_cells_the_first_is_found(budget_mb: float) -> None:
    """Whether they are searched together or in different slabs; all numbers here are exact."""
    local, coarse = torch.zeros(3, 4, 8, 8), torch.zeros(3, 2, 1, 1)
    local[0], coarse[0] = 1, 1
    for cell in ((1, 2, 3), (1, 5, 0), (3, 0, 0)):
        local[(slice(None), *cell)] = torch.tensor([0.0, 1.0, 0.0])
    volume = VolumeEmbedding({"local": local, "global": coarse}, torch.eye(4))
    matched = PointMatcher(query="cell", refine=False, budget_mb=budget_mb)(
        volume, volume, torch.tensor([[6.5, 0.5, 0.5]])
    )
    assert matched.points.tolist() == [[2.5, 4.5, 6.5]]


def test_a_volume_finds_itself_whatever_its_size() -> None:
    """Cells exactly; with sizes that are no multiples of the strides, and places between cells to half a cell."""
    for size in ((16, 32, 32), (15, 31, 30), (13, 17, 32)):
        volume = VolumeEmbedding(outputs(), affine((2.0, 1.5, 1.0), (7, -3, 90)), size)
        cells = volume.grid.positions()
        world = volume.to_world(volume.grid.to_voxels(cells))
        matched = PointMatcher(refine=False)(volume, volume, world)
        torch.testing.assert_close(matched.points, world)
        assert matched.accepted.all()
        torch.testing.assert_close(matched.score, torch.ones(len(cells)), atol=1e-5, rtol=0)
        torch.testing.assert_close(matched.cycle_error, torch.zeros(len(cells)).double(), atol=1e-9, rtol=0)


def described_by_place(voxels_of: Tensor, shape: tuple, stride: tuple) -> Tensor:
    """A unit vector for each cell that depends on its place in the world alone (random waves)."""
    axes = [torch.arange(n, dtype=torch.float64) * s + (s - 1) / 2 for n, s in zip(shape, stride, strict=True)]
    voxels = torch.cartesian_prod(*axes)
    world = voxels @ voxels_of[:3, :3].T + voxels_of[:3, 3]
    generator = torch.Generator().manual_seed(3)
    waves = torch.randn(3, 24, generator=generator, dtype=torch.float64) / 60
    phase = torch.rand(24, generator=generator, dtype=torch.float64) * 2 * math.pi
    return F.normalize((world @ waves + phase).cos().T.reshape(24, *shape), dim=0).float()


def anatomy(
    shape: tuple, matrix: Tensor, size: tuple | None = None, strides: tuple = ((2, 2, 2), (4, 16, 16))
) -> VolumeEmbedding:
    """What an ideal network says of one anatomy on a grid of voxels, padded to whole global cells."""
    cells = [tuple(-(-n // s) for n, s in zip(shape, stride, strict=True)) for stride in strides]
    maps = [described_by_place(matrix, c, stride) for c, stride in zip(cells, strides, strict=True)]
    return VolumeEmbedding(dict(zip(("local", "global"), maps, strict=True)), matrix, size, *strides)


def test_volumes_of_different_sizes_do_not_drift() -> None:
    """The same anatomy cut differently; stretching one grid to the other, as published, is wrong by cells."""
    whole = anatomy((32, 96, 96), affine(), size=(31, 89, 90))
    part = anatomy((24, 80, 64), affine(offset=(8.0, 16.0, 24.0)), size=(22, 66, 57))
    # where both have global cells on all sides
    voxels = torch.tensor([2, 8, 8]) + torch.rand(100, 3, dtype=torch.float64) * torch.tensor([16, 48, 40])
    points = part.to_world(voxels)
    matched = PointMatcher(query="cell", refine=False)(part, whole, points)
    maps = [{"local": volume.fine[0], "global": volume.coarse} for volume in (part, whole)]
    stretched = whole.to_world(2 * published(*maps, voxels)[0] + 0.5)
    error, published_error = ((found - points).norm(dim=1).mean() for found in (matched.points, stretched))
    assert error < 2.2  # cells of 4 mm
    assert published_error > 2 * error
    assert (PointMatcher()(part, whole, points).points - points).norm(dim=1).mean() < 1


def test_padding_is_never_found() -> None:
    maps, size = outputs(), (11, 20, 25)
    padded, cropped = VolumeEmbedding(maps, torch.eye(4)), VolumeEmbedding(maps, torch.eye(4), size)
    points = torch.rand(200, 3, dtype=torch.float64) * 31
    matched = PointMatcher(refine=False)(padded, cropped, points).points
    assert (matched <= 2 * torch.tensor([5.0, 9.0, 12.0]) + 0.5).all()
    assert cropped.contains(PointMatcher()(padded, cropped, points).points).all()


def oriented(matrix: Tensor, shape: tuple, order: tuple, flips: tuple) -> Tensor:
    """The affine of the same volume with its axes in another order and direction."""
    change = torch.zeros(4, 4, dtype=torch.float64)
    change[3, 3] = 1
    for new, old in enumerate(order):
        change[old, new] = -1 if flips[new] else 1
        change[old, 3] = shape[old] - 1 if flips[new] else 0
    return matrix @ change


ORIENTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def test_the_world_is_the_same_in_all_48_orientations() -> None:
    """Oblique and anisotropic, in double precision, to 1e-4 of a voxel."""
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    matrix = affine((0.7, 1.9, 3.1), (-120.0, 333.0, 41.0))
    matrix[:3, :3] = turn @ matrix[:3, :3]
    maps = {"local": smooth(12, (4, 6, 8)), "global": smooth(12, (2, 3, 4), seed=1)}
    fixed = VolumeEmbedding(maps, matrix, **CUBES)
    world = fixed.to_world(fixed.grid.to_voxels(fixed.grid.positions()))
    assert len(ORIENTATIONS) == 48
    for order, flips in ORIENTATIONS:
        dims = [axis + 1 for axis, flip in enumerate(flips) if flip]
        turned = {name: x.permute(0, *(axis + 1 for axis in order)).flip(dims) for name, x in maps.items()}
        moving = VolumeEmbedding(turned, oriented(matrix, (8, 12, 16), order, flips), **CUBES)
        for space, sign in (("RAS", [1.0, 1.0, 1.0]), ("LPS", [-1.0, -1.0, 1.0])):
            asked = world * torch.tensor(sign)
            found = PointMatcher(refine=False)(fixed, moving, asked, space).points
            assert (found - asked).abs().max() < 1e-4 * 0.7


def test_refinement_is_nearer_than_half_a_cell() -> None:
    fixed, moving = anatomy((32, 64, 64), affine()), anatomy((32, 64, 64), affine(offset=(-1.1, 0.7, 1.3)))
    points = fixed.to_world(8 + torch.rand(100, 3, dtype=torch.float64) * torch.tensor([16, 48, 48]))
    coarse, fine = (
        (PointMatcher(refine=fine)(fixed, moving, points).points - points).norm(dim=1) for fine in (False, True)
    )
    assert fine.mean() < coarse.mean() / 2


def test_the_cycle_error_is_the_way_there_and_back() -> None:
    volumes = [VolumeEmbedding(outputs(seed=seed), affine()) for seed in (0, 9)]
    points = volumes[0].to_world(torch.rand(40, 3, dtype=torch.float64) * 31)
    matcher = PointMatcher()
    there = matcher(*volumes, points)
    back = matcher(*volumes[::-1], there.points)
    torch.testing.assert_close(there.cycle_error, (back.points - points).norm(dim=1))


def test_what_leads_back_elsewhere_is_not_mutual() -> None:
    volumes = [VolumeEmbedding(outputs(seed=seed), affine()) for seed in (0, 9)]
    points = volumes[0].to_world(torch.rand(60, 3, dtype=torch.float64) * torch.tensor([15, 31, 31]))
    matched = PointMatcher("mutual", min_score=-1)(*volumes, points)
    single = PointMatcher("nn", min_score=-1)
    back = single(*volumes[::-1], single(*volumes, points).points).points
    stays = (back - points).abs().amax(dim=1) < 4.0  # a cell
    assert torch.equal(matched.accepted, stays)
    assert stays.sum() < 10
    assert all(
        ("not mutual: leads back" in reason) == (not stay) for reason, stay in zip(matched.reasons, stays, strict=True)
    )
    assert torch.equal(matched.points, PointMatcher("nn")(*volumes, points).points)
    centres = volumes[0].to_world(volumes[0].grid.to_voxels(volumes[0].grid.positions()[::7]))
    assert PointMatcher("mutual", refine=False)(volumes[0], volumes[0], centres).accepted.all()


def test_doubtful_matches_are_not_accepted_and_say_why() -> None:
    volumes = [VolumeEmbedding(outputs(seed=seed), affine()) for seed in (0, 9)]
    points = volumes[0].to_world(torch.tensor([[3.0, 9.0, 9.0], [3.0, -40.0, 9.0]]))
    score = float(PointMatcher()(*volumes, points).score[0])
    matched = PointMatcher(min_score=score + 0.01, max_cycle_mm=1e-3)(*volumes, points)
    assert matched.accepted.tolist() == [False, False]
    assert f"score {score:.2f} below {score + 0.01:g}; leads back" in matched.reasons[0]
    assert matched.reasons[1].startswith("outside of the fixed volume")
    assert PointMatcher(min_score=score - 0.01)(*volumes, points).accepted[0]
    assert not matched.fallback.any()


def test_fixed_points_map_where_single_matches_go_wrong() -> None:
    """A patch of the moving volume looks like another place; neighbours still know where the point belongs."""
    fixed, moving = anatomy((32, 64, 64), affine()), anatomy((32, 64, 64), affine(offset=(2.0, -4.0, 4.0)))
    points = fixed.to_world(torch.tensor([[13.0, 31.0, 29.0], [17.0, 26.0, 40.0]]))
    cells = moving.grid.holding(moving.to_voxels(points))
    for maps in moving.fine:
        for cell in cells:
            maps[(slice(None), *cell)] = torch.nn.functional.normalize(torch.randn(24), dim=0)
    near = PointMatcher("nn", refine=False)(fixed, moving, points)
    agreed = PointMatcher("fixed_point")(fixed, moving, points)
    assert (near.points - points).norm(dim=1).min() > 1
    assert (agreed.points - points).norm(dim=1).max() < 1
    assert (agreed.anchors >= 50).all()
    assert not agreed.fallback.any()


def test_too_few_anchors_fall_back_and_say_so() -> None:
    volumes = [VolumeEmbedding(outputs(seed=seed), affine()) for seed in (0, 9)]
    points = volumes[0].to_world(torch.rand(5, 3, dtype=torch.float64) * torch.tensor([15, 31, 31]))
    matched = PointMatcher("fixed_point", radius=1, anchor_score=0.999, min_score=-1)(*volumes, points)
    assert matched.fallback.all()
    assert matched.accepted.all()
    assert matched.anchors.tolist() == [0] * 5
    assert all("nearest match instead" in reason for reason in matched.reasons)
    assert torch.equal(matched.points, PointMatcher("nn", min_score=-1)(*volumes, points).points)


def test_fixed_points_stay_inside_of_the_volume() -> None:
    fixed, moving = anatomy((32, 64, 64), affine()), anatomy((16, 64, 64), affine())
    points = fixed.to_world(torch.tensor([[17.0, 30.0, 30.0]]))
    matched = PointMatcher("fixed_point", anchor_score=0.5)(fixed, moving, points)
    assert moving.contains(moving.to_voxels(matched.points)).all()


def test_the_robust_map_is_exact_despite_wrong_anchors() -> None:
    generator = torch.Generator().manual_seed(0)
    shift = torch.randn(3, 40, 3, generator=generator, dtype=torch.float64) * 5
    matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    target = shift @ matrix.T + torch.tensor([10.0, -20.0, 30.0])
    target[:, :4] += 150 * torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    keep = torch.ones(3, 40, dtype=torch.bool)
    keep[1, 20:] = False
    shift[2, :, 0] = 0.5  # in a plane
    mapped, usable = robust_map(shift, target, keep, smallest_spread=1.0)
    assert usable.tolist() == [True, True, False]
    torch.testing.assert_close(mapped[:2], torch.tensor([[10.0, -20.0, 30.0]] * 2).double(), atol=1e-3, rtol=0)


def test_scores_at_cells_are_those_of_the_search() -> None:
    volumes = [VolumeEmbedding(outputs(seed=seed, semantic=True), affine()) for seed in (0, 9)]
    queries = describe(volumes[0], torch.rand(50, 3, dtype=torch.float64) * 31, "interp")
    found = best_cells(volumes[1], queries, 64)
    torch.testing.assert_close(scores_at(volumes[1], queries, found.cells[:, None])[0][:, 0], found.score)


def test_norms_are_computed_once() -> None:
    volume = VolumeEmbedding(outputs(), affine())
    assert volume.inverse_lengths is volume.inverse_lengths
    stretched = F.interpolate(volume.coarse[None], size=volume.grid.shape, mode="trilinear")[0]
    torch.testing.assert_close(volume.inverse_lengths, 1 / stretched.norm(dim=0))


def test_pictures_are_matched_like_volumes() -> None:
    maps = {"local": torch.randn(1, 8, 12, 10), "global": torch.randn(1, 8, 2, 2)}
    maps = {name: F.normalize(x, dim=1) for name, x in maps.items()}
    picture = VolumeEmbedding(maps, torch.eye(3), (24, 19), (2, 2), (16, 16))
    points = torch.tensor([[2.5, 4.5], [22.5, 18.5]])
    for space in ("RAS", "LPS"):
        asked = points if space == "RAS" else -points
        torch.testing.assert_close(PointMatcher(refine=False)(picture, picture, asked, space).points, asked.double())


def test_no_points_are_no_error() -> None:
    volume = VolumeEmbedding(outputs(), affine())
    for mode in ("nn", "mutual", "fixed_point"):
        matched = PointMatcher(mode)(volume, volume, torch.zeros(0, 3))
        assert (len(matched), matched.reasons, matched.points.shape) == (0, (), (0, 3))


@pytest.mark.parametrize(
    ("points", "space", "told"),
    [
        (torch.zeros(2, 2), "RAS", r"rows of 3 numbers \(mm\), got \(2, 2\)"),
        (torch.tensor([[0.0, 0.0, 0.0], [0.0, math.nan, 0.0]]), "RAS", r"must be finite, got .* in row 1"),
        (torch.zeros(1, 3), "RAI", "space must be one of RAS, LPS, got 'RAI'"),
    ],
)
def test_unusable_points_are_refused(points: Tensor, space: str, told: str) -> None:
    volume = VolumeEmbedding(outputs(), affine())
    with pytest.raises(InputError, match=told):
        PointMatcher()(volume, volume, points, space)


def test_embeddings_of_different_networks_are_refused() -> None:
    elsewhere = VolumeEmbedding({name: x.to("meta") for name, x in outputs().items()}, affine())
    with pytest.raises(ValueError, match="on one device, got cpu and meta"):
        PointMatcher()(VolumeEmbedding(outputs(), affine()), elsewhere, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="of one network"):
        PointMatcher()(
            VolumeEmbedding(outputs(), affine()), VolumeEmbedding(outputs(semantic=True), affine()), torch.zeros(1, 3)
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"affine": torch.eye(3)}, r"affine must be \(4, 4\), got \(3, 3\)"),
        ({"affine": torch.zeros(4, 4)}, "affine must be invertible"),
        ({"size": (17, 32, 32)}, r"size must be 3 numbers up to \(16, 32, 32\).*got \(17, 32, 32\)"),
        ({"size": (0, 32, 32)}, "size must be"),
        (
            {"outputs": {"local": torch.rand(2, 8, 4, 4, 4), "global": torch.rand(8, 2, 1, 1)}},
            "local must be .* of one volume",
        ),
        ({"outputs": {**outputs(), "semantic": torch.rand(12, 2, 2, 2)}}, r"semantic must be \(12, 8, 16, 16\)"),
    ],
)
def test_what_is_no_volume_is_refused(change: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        VolumeEmbedding(**{"outputs": outputs(), "affine": torch.eye(4), **change})


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "best"}, {"query": "point"}, {"n_iter": 3}, {"radius": 0}, {"max_cycle_mm": 0.0}, {"budget_mb": 0.0}],
)
def test_a_bad_argument_is_named(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PointMatcher(**arguments)  # type: ignore[arg-type]
