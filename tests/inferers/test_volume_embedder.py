# SPDX-License-Identifier: Apache-2.0
"""VolumeEmbedder: tiles equal the whole, memory stays in its budget, and places keep their world."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Orientationd
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.inferers import VolumeEmbedder
from monai_ext.matching import PointMatcher, VolumeEmbedding
from tests.inferers.embedding_toys import PoolingToy, Untouched, padded, small_network, waves

ROOT = Path(__file__).parents[2]
TWO_MM = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))


def embedder(**settings: object) -> VolumeEmbedder:
    return VolumeEmbedder(**{"precision": "float32", **settings})  # type: ignore[arg-type]


def maps_of(volume: VolumeEmbedding) -> list[Tensor]:
    return [*volume.fine, volume.coarse]


def least_budget(image: Tensor, network: nn.Module) -> int:
    """What the refusal of a budget that is too small asks for, in MB."""
    with pytest.raises(InputError, match=r"^lung 3: memory_mb 0.1 is too small even for the smallest tiles") as told:
        embedder(memory_mb=0.1)(image, network, case="lung 3")
    return int(re.findall(r"set it to (\d+) or more", str(told.value))[0])


@pytest.mark.parametrize(
    ("size", "share"),
    [((90, 17, 30), 1.2), ((77, 16, 20), 1.0), ((96, 33, 16), 1.0), ((5, 330, 50), 1.1), ((3, 52, 333), 1.1)],
)
def test_tiles_give_the_embeddings_of_the_whole(size: tuple[int, ...], share: float) -> None:
    network, image = Untouched(small_network(semantic_head=True)), torch.rand(1, *size)
    whole = embedder()(image, network)
    assert len(network.seen) == 1
    budget = share * least_budget(image, network)
    network.seen.clear()
    tiled = embedder(memory_mb=budget)(image, network)
    assert len(network.seen) > 3  # two of them to foretell the memory
    assert len(tiled.fine) == 2
    for a, b in zip(maps_of(tiled), maps_of(whole), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "share"), [((401, 47), 1.0), ((300, 297), 1.15), ((17, 460), 1.0)])
def test_tiles_of_pictures_give_the_embeddings_of_the_whole(size: tuple[int, ...], share: float) -> None:
    network, image = Untouched(small_network(spatial_dims=2, base_channels=16)), torch.rand(1, *size)
    whole = embedder()(image, network)
    tiled = embedder(memory_mb=share * least_budget(image, network))(image, network)
    assert len(network.seen) > 6  # one whole, two twice to foretell the memory, and tiles
    assert whole.grid.shape == tuple(-(-side // 2) for side in size)
    for a, b in zip(maps_of(tiled), maps_of(whole), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_a_smaller_halo_is_cheaper_and_only_nearly_right() -> None:
    network, image = Untouched(small_network()), torch.rand(1, 96, 32, 32)
    whole, budget = embedder()(image, network), least_budget(image, network)
    voxels, apart = [], []
    for halo in ("exact", (8, 16, 16)):
        network.seen.clear()
        found = embedder(memory_mb=budget, halo=halo)(image, network)
        voxels.append(sum(math.prod(size) for size in network.seen))
        apart.append(float((found.coarse - whole.coarse).abs().max()))
    assert voxels[1] < voxels[0]
    assert apart[0] < 1e-4 < 1e-3 < apart[1] < 1


def test_the_volume_is_continued_with_what_the_network_wants() -> None:
    network, image = Untouched(small_network()), torch.rand(1, 7, 30, 18)
    found = embedder()(image, network)
    with torch.no_grad():
        expected = network.network.eval()(padded(image[None], (4, 16, 16), -0.3))
    assert network.seen == [(8, 32, 32)]
    torch.testing.assert_close(found.fine[0], expected["local"][0, :, :4, :15, :9], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.coarse, expected["global"][0], atol=1e-6, rtol=0)


def test_parts_of_the_network_keep_their_modes() -> None:
    network = small_network().train()
    network.encoder.stem.eval()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    embedder(memory_mb=20.0)(torch.rand(1, 8, 32, 32), network)
    assert (network.training, network.encoder.training, network.encoder.stem.training) == (True, True, False)
    assert all(torch.equal(before[name], x) for name, x in network.state_dict().items())


MEASURED = """
import json, torch
from benchmarks.harness import memory_mb, reset_peak
from monai_ext.inferers import VolumeEmbedder
from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d
network, image, grown = ResNetFPN3d(base_channels=16, embedding_dim=32), torch.rand(1, 100, 64, 64), []
for budget, threads in ((50, 1), (1000, 1), (50, 2)):
    torch.set_num_threads(threads)
    VolumeEmbedder(memory_mb=1e5)(image[:, :16], network)
    reset_peak()
    before = memory_mb("VmRSS")
    VolumeEmbedder(memory_mb=budget)(image, network)
    grown.append(memory_mb("VmHWM") - before)
print(json.dumps(grown))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_memory_stays_in_its_budget_and_fills_it() -> None:
    # the smallest tensors too are given back when they are freed, whatever the tests themselves run under
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**kept, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_WAIT_POLICY": "PASSIVE"}
    words = [sys.executable, "-W", "ignore", "-c", MEASURED]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    embeddings = 32 * 50 * 32 * 32 * 2 / 1e6
    whole = 1.05 * 4 * (2 * 16 + 1) * 100 * 64 * 64 / 1e6
    for grown, budget in zip(json.loads(done.stdout), (50, whole, 50), strict=True):
        assert budget / 2 < grown < budget + embeddings


def test_a_budget_too_small_is_told_the_smallest_that_will_do() -> None:
    network, image = small_network(), torch.rand(1, 70, 20, 40)
    smallest = least_budget(image, network)
    embedder(memory_mb=smallest)(image, network)
    with pytest.raises(InputError, match="too small"):
        embedder(memory_mb=smallest - 1)(image, network)


def test_what_cannot_be_cut_exactly_is_refused() -> None:
    image = torch.rand(1, 70, 20, 40)
    with pytest.raises(InputError, match="norm 'instance' takes its statistics from the whole image"):
        embedder(memory_mb=1)(image, small_network(norm="instance"))
    embedder(memory_mb=1000)(image, small_network(norm="instance"))
    bare = nn.Module()
    bare.strides, bare.forward = {"local": (2, 2, 2), "global": (4, 16, 16)}, PoolingToy().forward  # type: ignore[assignment]
    with pytest.raises(InputError, match="Module has no halo"):
        embedder(memory_mb=0.01)(image, bare)


@pytest.mark.parametrize("size", [(16, 32, 32), (13, 37, 50), (9, 33, 17), (4, 16, 16)])
def test_a_volume_finds_all_its_own_cells(size: tuple[int, ...]) -> None:
    volume = embedder()(MetaTensor(torch.rand(1, *size), affine=TWO_MM), small_network(embedding_dim=16))
    world = volume.to_world(volume.grid.to_voxels(volume.grid.positions()))
    matched = PointMatcher(query="cell", refine=False)(volume, volume, world)
    assert len(world) == len(volume.grid)
    torch.testing.assert_close(matched.points, world)


def published_places(network: nn.Module, scans: list[MetaTensor], voxels: Tensor) -> Tensor:
    """Voxels of the second scan found for those of the first one as published: global maps stretched to local ones."""
    maps = []
    for scan in scans:
        found = network(scan.as_tensor()[None])
        size = found["local"].shape[2:]
        stretched = F.interpolate(found["global"], size=size, mode="trilinear", align_corners=False)
        maps.append((found["local"][0], F.normalize(stretched[0], dim=0)))
    cells = (voxels + 0.5).div(2).floor().long().unbind(dim=1)
    similarity = sum(torch.einsum("cn,czyx->nzyx", a[(slice(None), *cells)], b) for a, b in zip(*maps, strict=True))
    places = torch.stack(torch.unravel_index(similarity.flatten(1).argmax(dim=1), similarity.shape[1:]), dim=1)
    return 2 * places + 0.5


def test_cuts_of_different_size_do_not_drift_as_published_matching_does() -> None:
    """Of the same anatomy; the global grids do not end where the local ones do, by another share in each volume."""
    offset = torch.tensor([4.0, 16.0, 16.0], dtype=torch.float64)
    moved = TWO_MM.clone()
    moved[:3, 3] = 2 * offset
    size = (38, 81, 67)
    scans, network = [waves(size, moved), waves((47, 109, 93), TWO_MM)], PoolingToy()
    inset, generator = torch.tensor([6.0, 12.0, 12.0], dtype=torch.float64), torch.Generator().manual_seed(1)
    voxels = inset + torch.rand(300, 3, generator=generator, dtype=torch.float64) * (torch.tensor(size) - 2 * inset)
    points = voxels @ moved[:3, :3].T + moved[:3, 3]
    volumes = [embedder()(scan, network) for scan in scans]
    ours = PointMatcher(query="cell", refine=False, min_score=-1)(*volumes, points).points - points
    with torch.no_grad():
        published = volumes[1].to_world(published_places(network, scans, voxels)) - points
    far = voxels[:, 1] > size[1] - 24
    assert ours.norm(dim=1).mean() < 2.2  # cells of 4 mm
    assert published.norm(dim=1).mean() > 3 * ours.norm(dim=1).mean()
    assert ours[far, 1].mean().abs() < 0.5
    assert published[far, 1].mean().abs() > 5


ORIENTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def oblique() -> Tensor:
    affine = torch.eye(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    affine[:3, :3] = turn * torch.tensor([3.1, 0.7, 1.3])
    affine[:3, 3] = torch.tensor([-210.0, 333.0, 41.0])
    return affine


def in_orientation(image: Tensor, affine: Tensor, order: tuple[int, ...], flips: tuple[bool, ...]) -> MetaTensor:
    """The same scan as another scanner may store it."""
    change = torch.zeros(4, 4, dtype=torch.float64)
    change[3, 3] = 1
    for new, old in enumerate(order):
        change[old, new] = -1 if flips[new] else 1
        change[old, 3] = image.shape[old + 1] - 1 if flips[new] else 0
    stored = image.permute(0, *(axis + 1 for axis in order)).flip([axis + 1 for axis, flip in enumerate(flips) if flip])
    return MetaTensor(stored, affine=affine @ change)


def test_the_world_survives_all_48_orientations() -> None:
    """A point's voxel shows that point, oblique and anisotropic, to 1e-4 of a voxel."""
    affine, size = oblique(), (9, 21, 14)
    axes = [torch.arange(side, dtype=torch.float64) for side in size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ affine[:3, :3].T + affine[:3, 3]
    image = places.movedim(-1, 0)  # each voxel shows where in the world it is
    voxels = torch.rand(50, 3, dtype=torch.float64) * (torch.tensor(size) - 1)
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    first = embedder()(
        Orientationd(["image"], axcodes="SPL")({"image": MetaTensor(image, affine=affine)})["image"], PoolingToy()
    )
    assert len(ORIENTATIONS) == 48
    for order, flips in ORIENTATIONS:
        item = {"image": in_orientation(image, affine, order, flips)}
        scan = Orientationd(["image"], axcodes="SPL")(item)["image"]
        volume = embedder()(scan, PoolingToy())
        found = volume.to_voxels(points)
        assert volume.contains(found).all()
        assert (found - first.to_voxels(points)).abs().max() < 1e-4
        assert (volume.to_world(found) - points).abs().max() < 1e-4 * 0.7
        grid = (found.flip(-1) / (torch.tensor(scan.shape[1:]).flip(0) - 1) * 2 - 1)[None, :, None, None]
        shown = F.grid_sample(scan.as_tensor()[None], grid, align_corners=True)[0, :, :, 0, 0].T
        assert (shown - points).abs().max() < 1e-4 * 0.7
        for a, b in zip(maps_of(volume), maps_of(first), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_volume_comes_alone_or_in_a_batch_of_one() -> None:
    network, scan = PoolingToy(), MetaTensor(torch.rand(1, 8, 32, 32), affine=oblique())
    collated = list_data_collate([{"image": scan}])["image"]
    volumes = [embedder()(given, network) for given in (scan, scan[None], collated)]
    for volume in volumes:
        torch.testing.assert_close(volume.affine, oblique())
        assert torch.equal(volume.fine[0], volumes[0].fine[0])
    with pytest.raises(InputError, match=r"one volume \(C, 3 axes\) at a time, got shape \(2, 1, 8, 32, 32\)"):
        embedder()(torch.rand(2, 1, 8, 32, 32), network)


def test_spacing_is_what_a_plain_volume_has_and_what_others_must_have() -> None:
    network, image = PoolingToy(), torch.rand(1, 8, 32, 32)
    assert VolumeEmbedder(spacing=(4, 2, 2))(image, network).affine.diagonal().tolist() == [4, 2, 2, 1]
    assert VolumeEmbedder()(image, network).affine.diagonal().tolist() == [1, 1, 1, 1]
    VolumeEmbedder(spacing=(3.1, 0.7, 1.3))(MetaTensor(image, affine=oblique()), network)
    with pytest.raises(InputError, match=r"voxels must be 2 x 2 x 2 mm, as spacing says, got 3.1 x 0.7 x 1.3"):
        VolumeEmbedder(spacing=2)(MetaTensor(image, affine=oblique()), network)


def test_a_pictures_third_axis_is_left_out_of_its_affine() -> None:
    picture = MetaTensor(torch.rand(1, 20, 40), affine=torch.diag(torch.tensor([0.5, 0.25, 7.0, 1.0])))
    assert embedder()(picture, small_network(spatial_dims=2)).affine.tolist() == [[0.5, 0, 0], [0, 0.25, 0], [0, 0, 1]]


def test_embeddings_are_kept_in_half_precision() -> None:
    network, image = small_network(), torch.rand(1, 8, 32, 32)
    half, single = VolumeEmbedder()(image, network), embedder()(image, network)
    assert (half.fine[0].dtype, half.coarse.dtype) == (torch.float16, torch.float16)
    torch.testing.assert_close(half.fine[0].float(), single.fine[0], atol=1e-3, rtol=0)
    assert not half.fine[0].is_inference()


def test_mixed_precision_is_near() -> None:
    network, image = small_network(), torch.rand(1, 8, 32, 32)
    mixed, single = embedder(amp=True)(image, network), embedder()(image, network)
    assert 0 < (mixed.fine[0] - single.fine[0]).abs().max() < 0.1


def test_values_that_are_no_numbers_are_told() -> None:
    image = torch.rand(1, 8, 32, 32)
    image[0, 3, 5, 5] = torch.nan
    with pytest.raises(InputError, match="scan 7: embeddings are NaN or infinite; look at the scan"):
        embedder()(image, PoolingToy(), case="scan 7")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"spacing": 0}, r"spacing must be positive \(mm\), got 0"),
        ({"spacing": (2, 2)}, "one number, or one for each of 3 axes"),
        ({"memory_mb": 0}, "memory_mb must be positive or None, got 0"),
        ({"precision": "bfloat16"}, "precision must be float16 or float32, got 'bfloat16'"),
        ({"halo": "none"}, "halo must be 'exact' or voxels along each axis, got 'none'"),
        ({"halo": (1, -1, 0)}, "voxels from 0 on"),
        ({"halo": (8, 8), "memory_mb": 0.01}, "halo must be voxels along each of 3 axes"),
        ({"amp": "false"}, "--amp False"),
    ],
)
def test_a_bad_argument_is_named(settings: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        embedder(**settings)(torch.rand(1, 8, 32, 32), PoolingToy())
