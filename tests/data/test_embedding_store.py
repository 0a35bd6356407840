# SPDX-License-Identifier: Apache-2.0
"""Embeddings come back as they were stored, are found by what they were made of, and stay within their budget."""

from __future__ import annotations

import logging
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import monai_ext
from monai_ext.data.embedding_key import EmbeddingKey
from monai_ext.data.embedding_reader import EmbeddingReader
from monai_ext.data.embedding_store import EmbeddingStore
from monai_ext.errors import InputError

SHAPES = {"neck": (6, 4, 4), "level_0": (8, 4, 4)}
KEY = EmbeddingKey("image", "preprocessing", "encoder", case="case-1")


def slice_of(index: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(index)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def fill(store: EmbeddingStore, key: EmbeddingKey = KEY, slices: int = 3) -> Path:
    writer = store.begin(key, SHAPES, slices, notes={"encoder": "vit_tiny"})
    assert writer is not None
    with writer:
        for index in writer.missing:
            writer.put(index, slice_of(index))
    return writer.path


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "embeddings")


def test_half_precision_comes_back_bit_for_bit_as_float32(store: EmbeddingStore) -> None:
    fill(store)
    read = store.reader(KEY)[1]
    assert {name: value.dtype for name, value in read.items()} == dict.fromkeys(SHAPES, torch.float32)
    assert all(torch.equal(read[name], value.half().float()) for name, value in slice_of(1).items())


def test_single_precision_loses_nothing(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, dtype=torch.float32)
    fill(store)
    assert all(torch.equal(store.reader(KEY)[2][name], value) for name, value in slice_of(2).items())


def test_some_tensors_can_be_read_in_the_type_of_the_file(store: EmbeddingStore) -> None:
    fill(store)
    read = store.reader(KEY).read(-1, ["neck"], dtype=None)
    assert list(read) == ["neck"]
    assert read["neck"].dtype == torch.float16
    assert torch.equal(read["neck"], slice_of(2)["neck"].half())
    with pytest.raises(InputError, match=r"has no \['head'\], but \['level_0', 'neck'\]"):
        store.reader(KEY).read(0, ["head"])
    with pytest.raises(IndexError):
        store.reader(KEY)[3]


def test_what_is_read_may_be_changed_without_harm(store: EmbeddingStore) -> None:
    fill(store)
    reader = store.reader(KEY)
    reader.read(0, dtype=None)["neck"].zero_()
    assert torch.equal(reader[0]["neck"], slice_of(0)["neck"].half().float())
    assert store.verify() == []


def test_others_read_the_file_with_safetensors_or_the_reader_alone(store: EmbeddingStore, tmp_path: Path) -> None:
    moved = fill(store).rename(tmp_path / "anywhere.safetensors")
    plain = load_file(moved)
    assert torch.equal(plain["neck"], torch.stack([slice_of(i)["neck"] for i in range(3)]).half())
    reader = EmbeddingReader(moved)
    assert torch.equal(reader[2]["neck"], plain["neck"][2].float())
    assert len(list(reader)) == 3


def test_the_file_says_what_it_is(store: EmbeddingStore) -> None:
    path = fill(store)
    entry = store.entries()[0]
    assert (entry.path, entry.key, entry.key.case, entry.key.plane) == (path, KEY, "case-1", "axial")
    assert (entry.shapes, entry.slices, entry.precision) == (SHAPES, 3, "float16")
    assert (entry.version, entry.notes) == (monai_ext.__version__, {"encoder": "vit_tiny"})
    assert entry.size == path.stat().st_size


class Slices(Dataset):
    def __init__(self, reader: EmbeddingReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.reader[index]


def test_workers_read_what_the_main_process_reads(store: EmbeddingStore) -> None:
    fill(store)
    dataset = Slices(store.reader(KEY))
    here = dataset[0]  # opened before the workers start
    batches = list(DataLoader(dataset, batch_size=1, num_workers=2, multiprocessing_context="fork"))
    assert len(batches) == 3
    assert torch.equal(batches[0]["neck"][0], here["neck"])


def test_an_open_reader_can_be_pickled_as_a_spawned_worker_needs_it(store: EmbeddingStore) -> None:
    fill(store)
    reader = store.reader(KEY, check=True)
    here = reader[0]
    there = pickle.loads(pickle.dumps(reader))
    assert torch.equal(there[0]["neck"], here["neck"])
    assert there.check


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured the Linux way")
def test_reading_one_slice_of_a_large_file_touches_little_of_it(store: EmbeddingStore) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    writer = store.begin(KEY, {"neck": (1, 512, 512)}, slices=400)  # 200 MB, nearly all of it a hole
    assert writer is not None
    writer.put(321, {"neck": torch.full((1, 512, 512), 2.0)})
    writer.close()
    whole = Path(f"{writer.path}.part").rename(writer.path)
    reader = EmbeddingReader(whole)
    before = resident()
    value = reader.read(321, dtype=None)["neck"]
    assert resident() - before < 20e6
    assert bool((value == 2).all())


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (replace(KEY, image="other"), "image"),
        (replace(KEY, preprocessing="other"), "preprocessing"),
        (replace(KEY, encoder="other"), "encoder"),
        (replace(KEY, plane="coronal"), "plane"),
    ],
)
def test_what_has_changed_is_never_reused_but_named(store: EmbeddingStore, changed: EmbeddingKey, name: str) -> None:
    fill(store)
    assert KEY in store
    assert changed not in store
    assert store.stale(KEY) == ()
    assert store.stale(changed) == (name,)
    with pytest.raises(InputError, match=f"no embeddings of case-1; those there are of another {name}; compute"):
        store.reader(changed)
    fill(store, changed)
    assert store.stale(changed) == ()
    assert len(store.entries()) == 2


def test_another_precision_is_another_entry(store: EmbeddingStore) -> None:
    fill(store)
    exact = EmbeddingStore(store.folder, dtype=torch.float32)
    assert KEY not in exact
    assert exact.stale(KEY) == ("precision",)


def test_all_changes_are_named_and_unknown_scans_have_none(store: EmbeddingStore) -> None:
    fill(store)
    entries = store.entries()
    assert store.stale(replace(KEY, image="x", encoder="y"), entries) == ("image", "encoder")
    unknown = EmbeddingKey("new", "preprocessing", "encoder", case="case-2")
    assert store.stale(unknown, entries) == ()
    with pytest.raises(InputError, match=r"no embeddings of case-2; compute them first"):
        store.reader(unknown)


def test_what_is_there_is_not_computed_again(store: EmbeddingStore) -> None:
    fill(store)
    assert store.begin(replace(KEY, case="same scan"), SHAPES, 3) is None


def test_the_estimate_is_the_size_but_for_the_header(store: EmbeddingStore) -> None:
    estimate = store.estimate(SHAPES, slices=3)
    path = fill(store)
    assert 0 < path.stat().st_size - estimate < 2000
    vit_b = {"neck": (256, 64, 64), **{f"level_{i}": (768, 64, 64) for i in range(3)}}
    assert store.estimate(vit_b, slices=1) == 20 * 2**20 + 32


def test_the_budget_is_kept_before_anything_is_written(tmp_path: Path) -> None:
    size = fill(EmbeddingStore(tmp_path / "a")).stat().st_size
    store = EmbeddingStore(tmp_path / "b", size_budget=2 * size - 1)
    fill(store)
    with pytest.raises(InputError, match=r"case-2 take 0\.0 MB, and 0\.0 MB of size_budget .* raise it, or remove"):
        store.begin(replace(KEY, image="2", case="case-2"), SHAPES, 3)
    assert sorted(path.suffix for path in store.folder.iterdir()) == ["", ".safetensors"]
    assert store.begin(KEY, SHAPES, 3) is None


def test_without_a_budget_nobody_looks_at_every_file_before_each_volume(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddingStore, "size", lambda self: pytest.fail("all files were looked at"))
    writer = store.begin(replace(KEY, image="another"), SHAPES, 2)
    assert writer is not None
    writer.close()


def test_what_is_being_written_counts_whole_and_only_once(store: EmbeddingStore) -> None:
    writer = store.begin(KEY, SHAPES, 3)
    assert writer is not None
    size = store.size()
    store.size_budget = size
    with pytest.raises(InputError, match=r"size_budget"):
        store.begin(replace(KEY, image="2"), SHAPES, 3)
    writer.close()
    assert fill(store).stat().st_size <= size + 100  # going on is within the budget


def test_a_disk_that_is_too_small_is_noticed_first(store: EmbeddingStore) -> None:
    with pytest.raises(InputError, match=r"the disk has .* MB left; make room, or choose another folder"):
        store.begin(KEY, {"neck": (10**6, 10**6)}, slices=1000)
    assert store.size() == 0


def test_pruning_removes_free_parts_and_then_the_least_recently_used(store: EmbeddingStore) -> None:
    keys = [replace(KEY, image=str(i)) for i in range(5)]
    paths = [fill(store, key) for key in keys[:3]]
    for age, path in zip((30, 20, 10), paths, strict=True):
        os.utime(path, (path.stat().st_mtime - age, path.stat().st_mtime - age))
    store.reader(keys[0])[0]
    abandoned, busy = (store.begin(key, SHAPES, 3) for key in keys[3:])
    assert abandoned is not None
    assert busy is not None
    abandoned.close()
    assert [entry.path for entry in store.entries()] == [paths[1], paths[2], paths[0]]
    assert store.prune(store.size()) == []
    size = paths[0].stat().st_size
    assert [path.name for path in store.prune(3 * size)] == [f"{abandoned.path.name}.part", paths[1].name]
    assert store.prune(0) == [paths[2], paths[0]]
    with busy:
        for index in busy.missing:
            busy.put(index, slice_of(index))
    assert [entry.path for entry in store.entries()] == [busy.path]


def test_a_store_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "none")
    assert (store.entries(), store.verify(), store.size(), KEY in store) == ([], [], 0, False)
    assert not store.folder.exists()


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"float16 or float32, got torch\.bfloat16"):
        EmbeddingStore(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"size_budget must be a positive number"):
        EmbeddingStore(tmp_path, size_budget=0)
    with pytest.raises(ValueError, match=r"at least one slice"):
        EmbeddingStore(tmp_path).begin(KEY, SHAPES, slices=0)
    with pytest.raises(ValueError, match=r"cannot be called 'checksums'"):
        EmbeddingStore(tmp_path).begin(KEY, {"checksums": (1,)}, slices=1)


def test_a_truncated_entry_is_made_anew_with_a_warning(store: EmbeddingStore, caplog: pytest.LogCaptureFixture) -> None:
    path = fill(store)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with caplog.at_level(logging.WARNING):
        assert KEY not in store
        assert store.entries() == []
    assert f"{path}: has {len(whole) - 1} of {len(whole)} bytes" in caplog.text
    fill(store)
    assert path.read_bytes() == whole
