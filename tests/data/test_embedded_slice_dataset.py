# SPDX-License-Identifier: Apache-2.0
"""Training items made of embeddings: the right ones, made at the right time, in the right process."""

from __future__ import annotations

import gc
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, RandGaussianNoised, Randomizable
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from monai_ext.data import EmbeddedSliceDataset, EpochSampler, SliceDataset, _shared_features, _sizes, _stored_features
from monai_ext.errors import InputError, find_input_error
from monai_ext.transforms import LoadScand
from tests.data.toy_encoder import Embedded, ToyEncoder, write_scan

CACHES = ["ram", "disk"]


@pytest.fixture
def data(tmp_path: Path) -> list[dict]:
    return [write_scan(tmp_path, "a", slices=5, seed=1), write_scan(tmp_path, "b", slices=3, seed=2)]


class Drawing(Randomizable):
    """Writes random numbers into the item, as a sampler of prompts does."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "drawn": torch.from_numpy(self.R.random(3))}


def transforms() -> Compose:
    noise = RandGaussianNoised(keys=["image"], prob=0.5, allow_missing_keys=True)
    return Compose([Drawing(), noise, Drawing()])


def dataset(data: list[dict], folder: Path, cache: str, network: nn.Module | None, **more: Any) -> EmbeddedSliceDataset:
    settings = {"embedding_precision": "float32", "embedding_batch_size": 3, **more}
    return EmbeddedSliceDataset(
        data,
        LoadScand(keys=["image", "label"]),
        cache_dir=folder / "cache",
        network=network,
        embedding_cache=cache,
        embedding_dir=folder / "embeddings",
        **settings,
    )


def expected(data: list[dict], network: ToyEncoder, **more: Any) -> Tensor:
    """The features of all slices, encoded slice by slice."""
    plain = SliceDataset(data, LoadScand(keys=["image", "label"]), **more)
    network.eval()
    with torch.no_grad():
        return torch.stack([network.embed(item["image"][None]).features[0] for item in plain])


def test_without_a_cache_items_are_those_of_the_slice_data_set(data: list[dict], tmp_path: Path) -> None:
    plain = SliceDataset(data, LoadScand(keys=["image", "label"]), transforms(), seed=3)
    found = dataset(data, tmp_path, "none", None, transform=transforms(), seed=3)
    assert len(found) == len(plain) == 8
    for own, other in zip(found, plain, strict=True):
        assert own.pop("embedded") is False
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in ("image", "label", "drawn"))
        assert (own["case"], own["slice"]) == (other["case"], other["slice"])
    assert not (tmp_path / "embeddings").exists()


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("context", [0, 1])
def test_images_are_the_features_of_the_raw_slices(data: list[dict], tmp_path: Path, cache: str, context: int) -> None:
    network = ToyEncoder(in_channels=1 + 2 * context)
    found = dataset(data, tmp_path, cache, network, slice_context=context)
    plain = SliceDataset(data, LoadScand(keys=["image", "label"]))
    items = list(found)
    features = torch.stack([item["image"] for item in items])
    torch.testing.assert_close(features, expected(data, network, slice_context=context), rtol=0, atol=0)
    assert all(item["embedded"] is True for item in items)
    assert [(item["case"], item["slice"]) for item in items] == [(item["case"], item["slice"]) for item in plain]
    assert all(torch.equal(item["label"], other["label"]) for item, other in zip(items, plain, strict=True))


@pytest.mark.parametrize("cache", CACHES)
def test_half_precision_is_kept_as_it_is(data: list[dict], tmp_path: Path, cache: str) -> None:
    network = ToyEncoder()
    found = dataset(data, tmp_path, cache, network, embedding_precision="float16")[-1]["image"]
    assert torch.equal(found, expected(data, network)[-1].half())


@pytest.mark.parametrize("cache", CACHES)
def test_random_transforms_draw_what_they_draw_for_images(data: list[dict], tmp_path: Path, cache: str) -> None:
    settings: dict[str, Any] = {"transform": transforms(), "seed": 5, "empty_slices": 0.5}
    plain = dataset(data, tmp_path, "none", None, **settings)
    found = dataset(data, tmp_path, cache, ToyEncoder(), **settings)
    for epoch in (1, 2):
        plain.set_epoch(epoch)
        found.set_epoch(epoch)
        assert len(found) == len(plain) == 7
        assert all(torch.equal(own["drawn"], other["drawn"]) for own, other in zip(found, plain, strict=True))


def test_memory_holds_the_slices_that_are_used_and_the_disk_whole_volumes(data: list[dict], tmp_path: Path) -> None:
    for cache, count in (("ram", 6), ("disk", 8)):
        network = ToyEncoder()
        found = dataset(data, tmp_path, cache, network, empty_slices=0.0)
        assert len(list(found)) == 6
        assert sum(network.encoded) == count
        features = torch.stack([item["image"] for item in found])
        assert torch.equal(features, expected(data, network, empty_slices=0.0))


class MainOnly(ToyEncoder):
    def embed(self, image: Tensor) -> Embedded:
        assert get_worker_info() is None
        return super().embed(image)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (2, True)])
def test_a_run_is_given_the_embeddings_of_the_weights_that_it_starts_with(
    data: list[dict], tmp_path: Path, cache: str, workers: int, persistent: bool
) -> None:
    network, head, seen = MainOnly(), nn.Conv2d(9, 1, 1), []
    items = dataset(data, tmp_path, cache, network)
    sampler = EpochSampler(items, shuffle=False)
    loader = DataLoader(items, sampler=sampler, batch_size=3, num_workers=workers, persistent_workers=persistent)

    def forward(features: Tensor, network: nn.Module) -> Tensor:
        seen.append(features.clone())
        return network(features)

    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=loader,
        network=head,
        optimizer=torch.optim.SGD(head.parameters(), 0.1),
        loss_function=lambda prediction, label: prediction.square().mean(),
        inferer=forward,
    )
    old, new, newest = (ToyEncoder().state_dict() for _ in range(3))
    network.load_state_dict(old)
    assert network.encoded == []
    trainer.add_event_handler(Events.STARTED, lambda: network.load_state_dict(new))  # as a checkpoint is resumed
    # nobody should do this, but whoever does it after two epochs gets what the new weights give
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: network.load_state_dict(newest))
    trainer.run()
    trainer._dataloader_iter = loader._iterator = None  # workers left to the garbage collector take seconds to stop
    epochs = torch.cat(seen).view(3, 8, 9, 4, 4)
    assert sum(network.encoded) == 16
    network = ToyEncoder()
    for epoch, weights in enumerate((new, new, newest)):
        network.load_state_dict(weights)
        torch.testing.assert_close(epochs[epoch], expected(data, network), rtol=0, atol=0)


@pytest.mark.parametrize("cache", CACHES)
def test_without_a_sampler_that_tells_the_epoch(data: list[dict], tmp_path: Path, cache: str) -> None:
    network = MainOnly()
    items = dataset(data, tmp_path, cache, network)
    workers = iter(DataLoader(items, num_workers=1))
    with pytest.raises(InputError, match=r"call set_epoch\(\) or prepare\(\) of the data set") as error:
        next(workers)
    workers._shutdown_workers()  # left to the garbage collector they take seconds
    assert find_input_error(error.value) is error.value
    here = torch.cat([batch["image"] for batch in DataLoader(items)])  # the main process may compute
    there = torch.cat([batch["image"] for batch in DataLoader(items, num_workers=1)])
    assert torch.equal(here, expected(data, network))
    assert torch.equal(here, there)


@pytest.mark.parametrize("cache", CACHES)
def test_what_a_worker_gets_by_pickling_has_no_network(data: list[dict], tmp_path: Path, cache: str) -> None:
    items = dataset(data, tmp_path, cache, ToyEncoder())
    items.prepare()
    sent = pickle.dumps(items)
    assert b"ToyEncoder" not in sent
    there = pickle.loads(sent)
    there.set_epoch(4)
    assert torch.equal(there[6]["image"], items[6]["image"])


def test_another_run_finds_what_the_first_has_stored(
    data: list[dict], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = ToyEncoder()
    with caplog.at_level(logging.INFO):
        dataset(data[:1], tmp_path, "disk", network).prepare()
        dataset(data, tmp_path, "disk", network).prepare()
        items = dataset(data, tmp_path, "disk", network)
        for epoch in range(3):
            items.set_epoch(epoch)
    assert sum(network.encoded) == 8
    texts = [record.getMessage() for record in caplog.records if record.name == "monai_ext.data._stored_features"]
    folder = tmp_path / "embeddings"
    assert texts == [
        f"{folder}: embeddings of 0 of 1 volumes are there; computing 5 slices of 1 volumes, 0.0 MB in float32",
        f"{folder}: embeddings of 1 of 2 volumes are there; computing 3 slices of 1 volumes, 0.0 MB in float32",
        f"{folder}: embeddings of 2 of 2 volumes are there; 8 slices, nothing to compute",
    ]


def test_a_changed_image_or_encoder_is_noticed_and_named(
    data: list[dict], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = ToyEncoder()
    dataset(data, tmp_path, "disk", network).prepare()
    write_scan(tmp_path, "b", slices=3, seed=9)
    items = dataset(data, tmp_path, "disk", network)
    items.prepare()
    assert network.encoded == [3, 2, 3, 3]
    assert "stored embeddings of b are of another image; they are computed anew" in caplog.text
    assert torch.equal(torch.stack([item["image"] for item in items]), expected(data, network))
    with torch.no_grad():
        network.deeper.bias += 1
    items.set_epoch(1)
    assert "stored embeddings of a, b are of another encoder" in caplog.text
    assert torch.equal(torch.stack([item["image"] for item in items]), expected(data, network))


def test_a_flipped_bit_is_told_when_its_slice_is_first_read(data: list[dict], tmp_path: Path) -> None:
    items = dataset(data[:1], tmp_path, "disk", ToyEncoder())
    items.prepare()
    path = next((tmp_path / "embeddings").glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last slice
    path.write_bytes(content)
    assert items[3]["image"].shape == (9, 4, 4)
    for _ in range(2):
        with pytest.raises(InputError, match=r"slice 4 differs from what was written"):
            items[4]


def test_slices_are_compared_with_their_checksums_once(
    data: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = dataset(data, tmp_path, "disk", ToyEncoder())
    checks: list[bool] = []
    real = _stored_features.read_features
    monkeypatch.setattr(
        _stored_features, "read_features", lambda reader, *rest: (checks.append(reader.check), real(reader, *rest))[1]
    )
    for _ in range(2):
        list(items)
    assert checks == [True] * 8 + [False] * 8


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="maps are counted the Linux way")
def test_no_more_files_are_kept_open_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stored_features, "OPEN_FILES", 3)
    data = [write_scan(tmp_path, f"case-{i}", slices=2, seed=i) for i in range(8)]
    items = dataset(data, tmp_path, "disk", ToyEncoder())
    items.prepare()
    order = np.random.default_rng(0).permutation(len(items)).tolist()
    features = {index: items[index]["image"] for index in order * 3}
    gc.collect()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    mapped = {line.split()[-1] for line in maps if "embeddings" in line}
    handles = [os.path.realpath(f"/proc/self/fd/{handle}") for handle in os.listdir("/proc/self/fd")]
    assert len(mapped) <= 3
    assert len([path for path in handles if "embeddings" in path]) <= 3
    assert torch.equal(torch.stack([features[i] for i in range(16)]), torch.stack([item["image"] for item in items]))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured the Linux way")
@pytest.mark.parametrize("cache", CACHES)
def test_memory_is_flat_over_epochs(data: list[dict], tmp_path: Path, cache: str) -> None:
    def private() -> int:
        """Bytes of memory that are no file's and nobody else's."""
        sizes = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return (int(sizes[1]) - int(sizes[2])) * os.sysconf("SC_PAGE_SIZE")

    items = dataset(data, tmp_path, cache, ToyEncoder(side=256))  # 2.4 MB a slice, 19 MB an epoch
    sizes = []
    for epoch in range(9):
        items.set_epoch(epoch)
        for index in range(len(items)):
            items[index]["image"] += 1
        sizes.append(private())
    assert sizes[-1] - sizes[2] < 5e6


def test_too_little_memory_is_told_before_anything_is_encoded(
    data: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = 8 * 9 * 4 * 4 * 4
    network = ToyEncoder()
    monkeypatch.setattr(_shared_features, "free_memory", lambda: need - 1)
    with pytest.raises(
        InputError, match=r"embedding_cache ram: .* 8 slices take 0\.0 MB, .* set embedding_cache to disk"
    ):
        dataset(data, tmp_path, "ram", network)
    assert network.encoded == []
    dataset(data, tmp_path, "ram", network, embedding_precision="float16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"in each of 3 processes"):
        dataset(data, tmp_path, "ram", network, embedding_precision="float16")


def test_memory_is_read_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    3 kB\n", encoding="ascii")
    monkeypatch.setattr(_sizes, "MEMINFO", tmp_path / "meminfo")
    assert _sizes.free_memory() == 3072
    monkeypatch.setattr(_sizes, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(_sizes, "SHARED_MEMORY", tmp_path / "none")
    assert _sizes.free_memory() is None


def test_a_value_beyond_half_precision_is_told_in_memory_too(data: list[dict], tmp_path: Path) -> None:
    items = dataset(data, tmp_path, "ram", ToyEncoder(offset=1e6), embedding_precision="float16")
    with pytest.raises(InputError, match=r"a: an embedding has values .* beyond what float16 can hold"):
        items.prepare()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_cache": "gpu"}, r"embedding_cache must be one of none, ram, disk, got 'gpu'"),
        ({"network": None}, r"embedding_cache disk needs the network"),
        ({"network": nn.Linear(1, 1)}, r"Linear cannot work from embeddings"),
        ({"network": ToyEncoder(frozen=False)}, r"that of ToyEncoder is trained; set embedding_cache to none"),
        ({"embedding_dir": None}, r"embedding_cache disk needs a folder; set embedding_dir"),
        ({"embedding_precision": "int8"}, r"embedding_precision must be float16 or float32"),
        ({"size_budget": 0}, r"size_budget must be a positive number"),
    ],
)
def test_wrong_knobs_are_named_before_a_scan_is_read(settings: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"network": ToyEncoder(), "embedding_cache": "disk", "embedding_dir": "nowhere"}
    with pytest.raises(InputError, match=message):
        EmbeddedSliceDataset([{"image": "nowhere.nii"}], LoadScand(keys=["image"]), **{**right, **settings})


def test_an_encoder_that_is_no_longer_frozen_is_refused(data: list[dict], tmp_path: Path) -> None:
    network = ToyEncoder()
    items = dataset(data, tmp_path, "disk", network)
    network.frozen = False
    with pytest.raises(InputError, match=r"that of ToyEncoder is trained"):
        items.prepare()


@pytest.mark.parametrize("cache", CACHES)
def test_features_of_the_old_weights_are_not_read_after_new_ones_have_failed(
    data: list[dict], tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ToyEncoder()
    items = dataset(data, tmp_path, cache, network)
    items.set_epoch(1)
    with torch.no_grad():
        network.deeper.bias += 1
    monkeypatch.setattr(ToyEncoder, "embed", lambda self, image: 1 / 0)
    for use in (lambda: items.set_epoch(2), lambda: items[0]):
        with pytest.raises(ZeroDivisionError):
            use()
