# SPDX-License-Identifier: Apache-2.0
"""Kept embeddings: the same ones without the network, and never those of something else."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_ext.errors import InputError
from monai_ext.inferers import VolumeEmbedder
from monai_ext.matching import VolumeEmbedding
from tests.inferers.embedding_toys import PoolingToy, Untouched, small_network

MAPS = Path("/proc/self/maps")


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 9, 37, 30, generator=torch.Generator().manual_seed(0))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def same(a: VolumeEmbedding, b: VolumeEmbedding) -> bool:
    pairs = zip([*a.fine, a.coarse], [*b.fine, b.coarse], strict=True)
    return a.size == b.size and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_the_second_time_the_network_is_not_run(tmp_path: Path, image: Tensor, precision: str) -> None:
    network = PoolingToy()
    fresh = VolumeEmbedder(precision=precision)(image, network)
    network.seen.clear()
    first, second = (VolumeEmbedder(precision=precision, cache_dir=tmp_path)(image, network) for _ in range(2))
    assert len(network.seen) == 1
    assert same(first, fresh)
    assert same(second, fresh)
    assert len(files(tmp_path)) == 1


def test_a_budget_for_memory_changes_nothing_about_what_is_found(tmp_path: Path, image: Tensor) -> None:
    network = PoolingToy()
    VolumeEmbedder(cache_dir=tmp_path)(image, network)
    VolumeEmbedder(cache_dir=tmp_path, memory_mb=0.5)(image, network, case="another name")
    assert len(network.seen) == 1
    VolumeEmbedder(cache_dir=tmp_path, memory_mb=0.5, halo=(4, 0, 0))(image, network)  # only nearly right
    assert len(network.seen) > 1


@pytest.mark.skipif(not MAPS.exists(), reason="maps are read from /proc")
def test_what_is_found_lies_in_the_file_until_it_is_read(tmp_path: Path, image: Tensor) -> None:
    volumes = [VolumeEmbedder(cache_dir=tmp_path)(image, PoolingToy()) for _ in range(2)]
    name = files(tmp_path)[0].name
    mapped = [line.split() for line in MAPS.read_text(encoding="utf-8").splitlines() if name in line]
    spans = [[int(address, 16) for address in line[0].split("-")] for line in mapped]
    places = [[x.data_ptr() for x in (volume.fine[0], volume.coarse)] for volume in volumes]
    inside = [[any(first <= place < stop for first, stop in spans) for place in both] for both in places]
    assert inside == [[False, False], [True, True]]


def test_the_same_voxels_elsewhere_are_the_same_embeddings_there(tmp_path: Path, image: Tensor) -> None:
    network, moved = PoolingToy(), torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    moved[:3, 3] = torch.tensor([5.0, 6.0, 7.0])
    volumes = [VolumeEmbedder(cache_dir=tmp_path)(scan, network) for scan in (image, MetaTensor(image, affine=moved))]
    assert len(network.seen) == 1
    assert [float(volume.affine[0, 3]) for volume in volumes] == [0.0, 5.0]


def test_whatever_embeddings_depend_on_makes_new_ones(tmp_path: Path, image: Tensor) -> None:
    network, other, cut = PoolingToy(), image.clone(), image[..., :29]
    other[0, 3, 4, 2] += 1e-6
    expected = 0
    for scan, toy, settings in (
        (image, network, {}),
        (other, network, {}),
        (cut, network, {}),
        (image, PoolingToy(offset=0.5), {}),
        (image, network, {"amp": True}),
        (image, network, {"precision": "float32"}),
    ):
        VolumeEmbedder(cache_dir=tmp_path, **settings)(scan, toy)  # type: ignore[arg-type]
        expected += 1
        assert len(files(tmp_path)) == expected
    with torch.no_grad():
        network.weight.mul_(1.5)
    VolumeEmbedder(cache_dir=tmp_path)(image, network)
    assert len(files(tmp_path)) == expected + 1


def test_a_damaged_file_is_told_and_made_anew(tmp_path: Path, image: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    network = PoolingToy()
    first = VolumeEmbedder(cache_dir=tmp_path)(image, network)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], whole[:-5], whole[:100], b""):
        path.write_bytes(damaged)
        network.seen.clear()
        caplog.clear()
        assert same(VolumeEmbedder(cache_dir=tmp_path)(image, network), first)
        assert len(network.seen) == 1
        assert str(path) in caplog.text
        assert path.read_bytes() == whole
    assert same(VolumeEmbedder(cache_dir=tmp_path)(image, network), first)
    assert len(network.seen) == 1


def test_the_folder_keeps_to_its_budget_and_drops_what_was_used_longest_ago(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = [torch.rand(1, 8, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    network = PoolingToy()
    VolumeEmbedder(cache_dir=tmp_path)(scans[0], network)
    size = files(tmp_path)[0].stat().st_size
    kept = VolumeEmbedder(cache_dir=tmp_path, size_budget=2 * size + 5000)
    for path in files(tmp_path):
        os.utime(path, (1, 1))
    kept(scans[1], network)
    os.utime(files(tmp_path)[0], (2, 2))
    os.utime(files(tmp_path)[1], (2, 2))
    kept(scans[0], network)  # found, and so used last
    kept(scans[2], network)
    assert len(files(tmp_path)) == 2
    network.seen.clear()
    kept(scans[0], network)
    assert network.seen == []
    kept(scans[1], network)
    assert len(network.seen) == 1
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 2 * size + 5000
    with caplog.at_level(logging.WARNING):
        VolumeEmbedder(cache_dir=tmp_path, size_budget=1000)(scans[3], network)
    assert "embeddings are not kept" in caplog.text
    assert len(files(tmp_path)) == 2


def test_a_folder_that_cannot_be_written_costs_nothing_but_a_warning(
    tmp_path: Path, image: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    embedded = VolumeEmbedder(cache_dir=tmp_path / "file" / "folder")(image, PoolingToy())
    assert same(embedded, VolumeEmbedder()(image, PoolingToy()))
    assert "embeddings are not kept" in caplog.text


class SlowToy(PoolingToy):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        time.sleep(0.2)
        return super().forward(image)


def embed(folder: str, turn: int) -> None:
    torch.set_num_threads(1)
    image = torch.rand(1, 9, 37, 30, generator=torch.Generator().manual_seed(0))
    Path(folder, f"ready-{turn}").touch()
    while not Path(folder, f"ready-{1 - turn}").exists():
        time.sleep(0.001)
    for _ in range(3):
        volume = VolumeEmbedder(cache_dir=folder)(image, SlowToy())
        assert same(volume, VolumeEmbedder()(image, PoolingToy()))


def test_two_processes_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    children = [mp.get_context("fork").Process(target=embed, args=(str(tmp_path), turn)) for turn in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert len(files(tmp_path)) == 1
    assert list(tmp_path.glob("*.part")) == []


def test_a_network_that_cannot_be_told_from_others_is_not_kept(tmp_path: Path, image: Tensor) -> None:
    network: nn.Module = Untouched(small_network())
    with pytest.raises(InputError, match="Untouched has no encoder_settings"):
        VolumeEmbedder(cache_dir=tmp_path)(image, network)


def test_the_published_network_is_kept_with_all_its_heads(tmp_path: Path, image: Tensor) -> None:
    network, calls = small_network(semantic_head=True), []
    network.register_forward_hook(lambda *_: calls.append(1))
    volumes = [VolumeEmbedder(cache_dir=tmp_path)(image, network) for _ in range(2)]
    assert len(calls) == 1
    assert same(*volumes)
    assert len(volumes[0].fine) == 2
