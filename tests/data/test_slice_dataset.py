# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Orientationd, RandAffined, RandFlipd, RandGaussianNoised, RandZoomd
from PIL import Image
from torch.utils.data import DataLoader

from monai_ext.data import EpochSampler, SliceDataset
from monai_ext.errors import InputError, find_input_error
from monai_ext.transforms import CheckScand, LoadScand, PrepareLabeld, ScaleScand


def reading(num_classes: int = 3, **scale: Any) -> Compose:
    return Compose([
        LoadScand(keys=["image", "label"]),
        CheckScand(keys=["image"], label_key="label", num_classes=num_classes),
        Orientationd(keys=["image", "label"], axcodes="RAS", labels=None),
        ScaleScand(keys=["image"], **{"mode": "none", **scale}),
        PrepareLabeld(keys=["label"], num_classes=num_classes),
    ])  # fmt: skip


def augmentation() -> Compose:
    return Compose([
        RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=0),
        RandAffined(keys=["image", "label"], prob=0.9, rotate_range=1.0, mode=["bilinear", "nearest"]),
        RandZoomd(keys=["image", "label"], prob=0.5, mode=["area", "nearest"]),
        RandGaussianNoised(keys=["image"], prob=0.5),
    ])  # fmt: skip


def volume(folder: Path, name: str, shape: tuple[int, int, int] = (4, 5, 6), empty: tuple[int, ...] = (0,)) -> dict:
    image = np.random.rand(*shape).astype(np.float32)
    label = np.random.randint(1, 3, shape).astype(np.uint8)
    label[:, :, list(empty)] = 0
    paths = {key: str(folder / f"{name}-{key}.nii.gz") for key in ("image", "label")}
    nib.save(nib.Nifti1Image(image, np.eye(4)), paths["image"])
    nib.save(nib.Nifti1Image(label, np.eye(4)), paths["label"])
    return {**paths, "case": name, "subject": name, "site": "north"}


@pytest.fixture
def data(tmp_path: Path) -> list[dict]:
    return [volume(tmp_path, "a"), volume(tmp_path, "b", shape=(4, 5, 3), empty=(1, 2))]


def values(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("cached", [False, True])
def test_items_are_upright_slices(data: list[dict], tmp_path: Path, cached: bool) -> None:
    dataset = SliceDataset(data, reading(), cache_dir=tmp_path / "cache" if cached else None)
    assert len(dataset) == 9
    item = dataset[7]
    assert {key: item[key] for key in ("case", "slice", "subject", "site")} == {
        "case": "b", "slice": 1, "subject": "b", "site": "north",
    }  # fmt: skip
    assert type(item["image"]) is torch.Tensor
    assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.float32)
    np.testing.assert_array_equal(item["image"][0], values(data[1]["image"])[::-1, ::-1, 1].T)
    np.testing.assert_array_equal(dataset[3]["label"][0], values(data[0]["label"])[::-1, ::-1, 3].T)


@pytest.mark.parametrize(("plane", "count", "shape"), [("coronal", 10, (1, 6, 4)), ("sagittal", 8, (1, 6, 5))])
def test_other_planes(data: list[dict], plane: str, count: int, shape: tuple) -> None:
    dataset = SliceDataset(data, reading(), plane=plane)
    assert len(dataset) == count
    assert dataset[0]["image"].shape == shape


@pytest.mark.parametrize("cached", [False, True])
def test_neighbours_come_as_channels(data: list[dict], tmp_path: Path, cached: bool) -> None:
    cache_dir = tmp_path / "cache" if cached else None
    alone = SliceDataset(data, reading(), cache_dir=cache_dir)
    wide = SliceDataset(data, reading(), slice_context=1, cache_dir=cache_dir)
    expected = torch.cat([alone[i]["image"] for i in (6, 6, 7)])
    torch.testing.assert_close(wide[6]["image"], expected, rtol=0, atol=0)
    torch.testing.assert_close(wide[6]["label"], alone[6]["label"])


@pytest.mark.parametrize(("empty_slices", "count"), [(0.0, 6), (0.34, 7), (1.0, 9)])
def test_empty_slices_are_thinned_and_the_others_kept(data: list[dict], empty_slices: float, count: int) -> None:
    dataset = SliceDataset(data, reading(), empty_slices=empty_slices)
    kept = [(item["case"], item["slice"]) for item in dataset]
    assert len(kept) == count
    assert {("a", i) for i in range(1, 6)} | {("b", 0)} <= set(kept)
    again = SliceDataset(data, reading(), empty_slices=empty_slices)
    assert kept == [(item["case"], item["slice"]) for item in again]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    data = [volume(tmp_path, "a", shape=(2, 2, 2), empty=(0, 1))]
    assert len(SliceDataset(data, reading())) == 2  # empty labels as such are legal
    with pytest.raises(InputError, match="no slice remains of 2"):
        SliceDataset(data, reading(), empty_slices=0.0)
    with pytest.raises(InputError, match="no scan to read"):
        SliceDataset([], reading())


def drawn(dataset: SliceDataset, workers: int, batch_size: int, epochs: tuple[int, ...]) -> list[dict]:
    sampler = EpochSampler(dataset, seed=1)
    loader = DataLoader(
        dataset, batch_size=batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    found = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        batches = list(loader)
        found.append({key: torch.cat([batch[key] for batch in batches]) for key in ("image", "label", "slice")})
    return found


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (1, 2), (2, 4)])
def test_a_draw_depends_on_seed_epoch_and_index_alone(data: list[dict], workers: int, batch_size: int) -> None:
    expected = drawn(SliceDataset(data, reading(), augmentation(), seed=5), workers=0, batch_size=3, epochs=(1, 2))
    # another order of the past, as after a restart at epoch 2, gives the same second epoch
    found = drawn(SliceDataset(data, reading(), augmentation(), seed=5), workers, batch_size, epochs=(7, 1, 2))
    torch.testing.assert_close(found[1:], expected, rtol=0, atol=0)
    assert not torch.equal(expected[0]["image"], expected[1]["image"])


def test_draws_differ_between_indices_epochs_and_seeds(tmp_path: Path) -> None:
    data = [volume(tmp_path, "a")]
    noise = Compose([RandGaussianNoised(keys=["image"], prob=1.0)])
    dataset = SliceDataset(data, reading(lower=0, upper=1), noise)
    plain = SliceDataset(data, reading(lower=0, upper=1))
    other = SliceDataset(data, reading(lower=0, upper=1), noise, seed=1)
    draws = [dataset[i]["image"] - plain[i]["image"] for i in range(6)] + [other[0]["image"] - plain[0]["image"]]
    dataset.set_epoch(1)
    draws.append(dataset[0]["image"] - plain[0]["image"])
    assert len({tuple(draw.flatten().round(decimals=4).tolist()) for draw in draws}) == 8
    torch.testing.assert_close(dataset[-1]["image"], dataset[5]["image"], rtol=0, atol=0)


class Counted:
    """A reading that counts its calls."""

    def __init__(self, inner: Compose) -> None:
        self.inner = inner

    def __call__(self, item: dict) -> dict:
        Counted.calls += 1
        return self.inner(item)

    calls = 0


@pytest.fixture
def calls() -> type[Counted]:
    Counted.calls = 0
    return Counted


def test_a_volume_is_read_once_in_memory(data: list[dict], calls: type[Counted]) -> None:
    dataset = SliceDataset(data, Counted(reading()))
    list(dataset)
    assert calls.calls == 2


def test_the_cache_is_used_until_a_file_or_a_setting_changes(
    data: list[dict], tmp_path: Path, calls: type[Counted]
) -> None:
    cache = tmp_path / "cache"
    SliceDataset(data, Counted(reading()), cache_dir=cache)
    SliceDataset(data, Counted(reading()), cache_dir=cache, slice_context=1, empty_slices=0.0)
    assert calls.calls == 2
    SliceDataset(data, Counted(reading(mode="percentile")), cache_dir=cache)
    assert calls.calls == 4
    SliceDataset(data, Counted(reading()), cache_dir=cache, plane="coronal")
    assert calls.calls == 6
    os.utime(data[0]["label"], ns=(time.time_ns(), time.time_ns() + 10**9))
    SliceDataset(data, Counted(reading()), cache_dir=cache)
    assert calls.calls == 7


def test_a_changed_file_gives_its_new_voxels(data: list[dict], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = SliceDataset(data, reading(), cache_dir=cache)[0]["image"]
    volume(tmp_path, "a")
    after = SliceDataset(data, reading(), cache_dir=cache)[0]["image"]
    assert not torch.equal(before, after)
    np.testing.assert_array_equal(after[0], values(data[0]["image"])[::-1, ::-1, 0].T)


def test_an_interrupted_cache_leaves_nothing_that_is_taken_for_whole(data: list[dict], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    Path(data[1]["label"]).write_bytes(b"")
    with pytest.raises(InputError, match=r"b-label.nii.gz: the file is empty"):
        SliceDataset(data, reading(), cache_dir=cache)
    assert len(list(cache.glob("*.json"))) == 1
    assert [path for path in cache.iterdir() if path.name.startswith(".tmp-")] == []


def test_pictures_with_and_without_cache(tmp_path: Path) -> None:
    items = []
    for i in range(3):
        picture = np.random.randint(0, 256, (5 + i, 7, 3), dtype=np.uint8)
        mask = np.full((5 + i, 7), 255 * (i > 0), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / f"{i}-mask.png")
        items.append({"image": str(tmp_path / f"{i}.png"), "label": str(tmp_path / f"{i}-mask.png")})
    plain = SliceDataset(items, reading(num_classes=1, mode="unit"))
    cached = SliceDataset(items, reading(num_classes=1, mode="unit"), cache_dir=tmp_path / "cache")
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "2.png"))).permute(2, 0, 1) / 255
    for dataset in (plain, cached):
        assert len(dataset) == 3
        torch.testing.assert_close(dataset[2]["image"], picture)
        assert dataset[2]["label"].unique().tolist() == [1]
        assert dataset[2]["case"] == "case-2"
    assert len(SliceDataset(items, reading(num_classes=1, mode="unit"), empty_slices=0.0)) == 2


def test_scans_without_labels(data: list[dict]) -> None:
    unlabelled = [{"image": item["image"]} for item in data]
    dataset = SliceDataset(unlabelled, [LoadScand(keys=["image"])], empty_slices=0.0)
    assert len(dataset) == 9
    assert "label" not in dataset[0]


@pytest.mark.parametrize(("empty_slices", "count"), [(0.0, 4), (0.5, 5), (1.0, 6)])
def test_without_labels_slices_of_one_value_count_as_empty(tmp_path: Path, empty_slices: float, count: int) -> None:
    item = volume(tmp_path, "a")
    voxels = np.random.rand(4, 5, 6).astype(np.float32)
    voxels[:, :, [0, 3]] = 0.7
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), item["image"])
    dataset = SliceDataset([{"image": item["image"]}], [LoadScand(keys=["image"])], empty_slices=empty_slices)
    found = [slice_["slice"] for slice_ in dataset]
    assert len(found) == count
    assert {1, 2, 4, 5} <= set(found)


def test_two_data_sets_may_share_a_reading_and_its_cache(data: list[dict], tmp_path: Path) -> None:
    """Transforms gather state as they read; names of files must not change by that."""
    shared, cache = reading(), tmp_path / "cache"
    SliceDataset(data[:1], shared, cache_dir=cache)
    first = sorted(cache.iterdir())
    SliceDataset(data[:1], shared, cache_dir=cache)
    assert sorted(cache.iterdir()) == first


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named_even_from_a_worker(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "b.png")
    items = [{"image": str(tmp_path / "a.png"), "label": str(tmp_path / "b.png")}]
    loader = DataLoader(SliceDataset(items, reading(num_classes=1)), num_workers=workers)
    with pytest.raises(InputError, match=r"a\.png: cannot be read") as error:
        list(loader)
    assert find_input_error(error.value) is error.value


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"plane": "up"}, "plane"), ({"slice_context": -1}, "slice_context"), ({"empty_slices": 2}, "empty_slices")],
)
def test_wrong_settings_are_named(data: list[dict], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SliceDataset(data, reading(), **settings)
