# SPDX-License-Identifier: Apache-2.0
"""Kills, two writers, full disks, flipped bytes: embeddings are right, or the user is told."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from monai_ext.data import embedding_writer
from monai_ext.data.embedding_key import EmbeddingKey
from monai_ext.data.embedding_reader import EmbeddingReader
from monai_ext.data.embedding_store import EmbeddingStore
from monai_ext.data.embedding_writer import EmbeddingWriter, part_of
from monai_ext.errors import InputError

SHAPES = {"neck": (6, 4, 4), "level_0": (8, 4, 4)}
KEY = EmbeddingKey("image", "preprocessing", "encoder", case="case-1")
KEYS = [replace(KEY, image=str(i), case=str(i)) for i in range(4)]
SLICES = 5


def slice_of(index: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(index)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def begin(store: EmbeddingStore, key: EmbeddingKey = KEY) -> EmbeddingWriter:
    writer = store.begin(key, SHAPES, SLICES)
    assert writer is not None
    return writer


def fill(store: EmbeddingStore, key: EmbeddingKey = KEY) -> Path:
    with begin(store, key) as writer:
        for index in writer.missing:
            writer.put(index, slice_of(index))
    return writer.path


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "embeddings")


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """What one undisturbed writer writes."""
    return fill(EmbeddingStore(tmp_path / "undisturbed")).read_bytes()


def write_and_die(folder: str, at_write: int) -> None:
    """Write slices until the given write, which is cut short by SIGKILL."""
    real, count = embedding_writer.write_at, 0

    def deadly(file, position, content) -> None:  # type: ignore[no-untyped-def]
        nonlocal count
        count += 1
        if count > at_write:
            real(file, position, bytes(content)[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        real(file, position, content)

    embedding_writer.write_at = deadly
    fill(EmbeddingStore(folder))


# a writer makes one write for the header, then two tensors and one row of checksums for each slice
@pytest.mark.parametrize(("at_write", "missing"), [(0, 5), (1, 5), (2, 5), (3, 5), (4, 4), (9, 3), (15, 1)])
def test_a_killed_writer_is_gone_on_with_to_the_same_bytes(
    store: EmbeddingStore, whole: bytes, at_write: int, missing: int
) -> None:
    child = mp.get_context("fork").Process(target=write_and_die, args=(str(store.folder), at_write))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert KEY not in store
    writer = begin(store)
    assert writer.missing == list(range(SLICES - missing, SLICES))
    writer.close()
    assert fill(store).read_bytes() == whole
    assert [path.suffix for path in store.folder.iterdir() if path.suffix] == [".safetensors"]


def test_slices_of_a_part_that_lost_bytes_are_written_anew(store: EmbeddingStore, whole: bytes) -> None:
    writer = begin(store)
    for index in (0, 3):
        writer.put(index, slice_of(index))
    writer.close()
    flip(part_of(writer.path), writer._layout.place("neck", 3)[0])
    again = begin(store)
    assert again.missing == [1, 2, 3, 4]
    again.close()
    assert fill(store).read_bytes() == whole


def test_a_part_of_other_content_is_not_gone_on_with(store: EmbeddingStore) -> None:
    writer = begin(store)
    writer.put(0, slice_of(0))
    writer.close()
    other = store.begin(KEY, SHAPES, SLICES + 1)
    assert other is not None
    assert other.missing == list(range(SLICES + 1))
    other.close()


def test_an_error_leaves_a_part_and_no_entry(store: EmbeddingStore, whole: bytes) -> None:
    writer = begin(store)
    writer.put(0, slice_of(0))
    with pytest.raises(RuntimeError, match=r"encoder failed"), writer:
        raise RuntimeError("encoder failed")
    assert store.entries() == []
    assert begin_and_close(store) == [1, 2, 3, 4]
    assert fill(store).read_bytes() == whole


def begin_and_close(store: EmbeddingStore) -> list[int]:
    writer = begin(store)
    writer.close()
    return writer.missing


def test_forgotten_slices_are_an_error(store: EmbeddingStore) -> None:
    writer = begin(store)
    with pytest.raises(ValueError, match=r"slices \[1, 2, 3, 4\] were not put, of 5"), writer:
        writer.put(0, slice_of(0))
    assert KEY not in store


def test_a_full_disk_is_told_and_what_was_written_is_kept(
    store: EmbeddingStore, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, position: int, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(embedding_writer, "write_at", full)
        with pytest.raises(InputError, match=r"the disk is full"):
            begin(store)
    writer = begin(store)
    writer.put(0, slice_of(0))
    with monkeypatch.context() as patch:
        patch.setattr(embedding_writer, "write_at", full)
        with pytest.raises(InputError, match=r"the disk is full, .* make room and start again"):
            writer.put(1, slice_of(1))
        writer.close()
    assert store.entries() == []
    assert begin_and_close(store) == [1, 2, 3, 4]
    assert fill(store).read_bytes() == whole


def test_a_slice_whose_second_writing_fails_is_missing_again(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: object, position: int, content: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer = begin(store)
    writer.put(1, slice_of(1))
    monkeypatch.setattr(embedding_writer, "write_at", broken)
    with pytest.raises(OSError, match=r"Input/output error"):
        writer.put(1, slice_of(1))
    assert writer.missing == [0, 1, 2, 3, 4]
    writer.close()


def test_the_first_of_two_writers_wins(store: EmbeddingStore, whole: bytes) -> None:
    first = begin(store)
    assert EmbeddingStore(store.folder).begin(KEY, SHAPES, SLICES) is None
    with first:
        for index in first.missing:
            first.put(index, slice_of(index))
    assert EmbeddingStore(store.folder).begin(KEY, SHAPES, SLICES) is None
    assert first.path.read_bytes() == whole


def write_all(folder: str, turn: int) -> None:
    store = EmbeddingStore(folder)
    Path(folder, f"ready-{turn}").touch()
    while not Path(folder, f"ready-{1 - turn}").exists():
        time.sleep(0.001)
    for key in KEYS:
        writer = store.begin(key, SHAPES, SLICES)
        if writer is not None:
            with writer:
                for index in writer.missing:
                    writer.put(index, slice_of(index))
            Path(folder, f"wrote-{key.case}-{turn}").touch()


def test_two_processes_share_the_volumes_and_write_what_one_would(store: EmbeddingStore, tmp_path: Path) -> None:
    store.folder.mkdir()
    children = [mp.get_context("fork").Process(target=write_all, args=(str(store.folder), i)) for i in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    alone = EmbeddingStore(tmp_path / "alone")
    assert all(fill(alone, key).read_bytes() == store.path(key).read_bytes() for key in KEYS)
    assert sorted(path.name.split("-")[1] for path in store.folder.glob("wrote-*")) == ["0", "1", "2", "3"]
    assert list(store.folder.glob("*.part")) == []


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["neck", "level_0"])
def test_a_flipped_bit_is_found_and_its_slice_named(store: EmbeddingStore, name: str) -> None:
    path = fill(store)
    assert store.verify() == []
    start, size = begin_layout(path, name, 2)
    flip(path, start + size - 1)
    damage = f"{path}: slice 2 differs from what was written; delete it and compute the embeddings anew."
    assert store.verify() == store.verify(KEY) == [damage]
    checking = EmbeddingReader(path, check=True)
    assert torch.equal(checking[1]["neck"], slice_of(1)["neck"].half().float())
    with pytest.raises(InputError, match=r"slice 2 differs from what was written"):
        checking[2]


def begin_layout(path: Path, name: str, index: int) -> tuple[int, int]:
    from monai_ext.data._embedding_file import read_layout

    return read_layout(path).place(name, index)


def test_a_flipped_bit_of_the_checksums_is_found(store: EmbeddingStore) -> None:
    path = fill(store)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    flip(path, header)
    assert "slice 0 differs" in store.verify()[0]


def test_flipped_bits_all_over_the_header_are_found(store: EmbeddingStore) -> None:
    path = fill(store)
    content = path.read_bytes()
    for position in range(0, 8 + int.from_bytes(content[:8], "little"), 5):
        flip(path, position)
        assert len(store.verify()) == 1, position
        path.write_bytes(content)
    assert store.verify() == []


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_named(store: EmbeddingStore, kept: int) -> None:
    path = fill(store)
    path.write_bytes(path.read_bytes()[:kept])
    assert store.verify()[0].startswith(str(path))
    with pytest.raises(InputError, match=rf"{path.name}: .* delete it and compute the embeddings anew"):
        EmbeddingReader(path)[0]


def test_a_missing_and_a_foreign_file_are_named(store: EmbeddingStore, tmp_path: Path) -> None:
    assert store.verify(KEY) == [
        f"{store.path(KEY)}: cannot be read (No such file or directory); compute the embeddings anew."
    ]
    (tmp_path / "x.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match=r"x\.safetensors: is no file of embeddings"):
        len(EmbeddingReader(tmp_path / "x.safetensors"))


def test_values_that_half_precision_cannot_hold_are_refused_not_cut(store: EmbeddingStore, tmp_path: Path) -> None:
    large = {**slice_of(0), "neck": torch.full(SHAPES["neck"], -70000.0)}
    writer = begin(store)
    with pytest.raises(InputError, match=r"case-1: 'neck' of slice 0 has values up to 70000, .* in float32"):
        writer.put(0, large)
    assert writer.missing == [0, 1, 2, 3, 4]
    writer.close()
    exact = begin(EmbeddingStore(tmp_path / "exact", dtype=torch.float32))
    exact.put(0, large)
    assert exact.missing == [1, 2, 3, 4]
    exact.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(store: EmbeddingStore, value: float) -> None:
    tensors = slice_of(0)
    tensors["level_0"][0, 0, 0] = value
    writer = begin(store)
    with pytest.raises(InputError, match=r"'level_0' of slice 0 has values that are NaN or infinite"):
        writer.put(0, tensors)
    writer.close()


def test_tensors_other_than_announced_are_refused(store: EmbeddingStore) -> None:
    writer = begin(store)
    with pytest.raises(ValueError, match=r"tensors must be .* got \{'neck': \(6, 4, 4\)\}"):
        writer.put(0, {"neck": slice_of(0)["neck"]})
    with pytest.raises(ValueError, match=r"tensors must be"):
        writer.put(0, {**slice_of(0), "neck": torch.zeros(6, 4, 5)})
    with pytest.raises(IndexError, match=r"slice must be in \[0, 4\], got 5"):
        writer.put(5, slice_of(0))
    writer.close()
