# SPDX-License-Identifier: Apache-2.0
"""Several processes compute the embeddings of a data set as one would, and what cannot end is not begun."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from monai_ext.data import EmbeddedSliceDataset, embedding_plan, embedding_writer
from monai_ext.data.embedding_plan import EmbeddingPlan
from monai_ext.data.slice_store import SliceStore
from monai_ext.data.volume_embeddings import VolumeEmbeddings
from monai_ext.errors import InputError
from monai_ext.transforms import LoadScand
from tests.data.toy_encoder import ToyEncoder, write_scan

CASES = ["a", "b", "c"]


@pytest.fixture
def data(tmp_path: Path) -> list[dict]:
    return [write_scan(tmp_path, case, slices=3 + seed, seed=seed) for seed, case in enumerate(CASES)]


def network(**settings: Any) -> ToyEncoder:
    torch.manual_seed(1)  # in every process the same weights
    return ToyEncoder(batch_effect=0.1, **settings)


def plan_of(data: list[dict], folder: Path, encoder: ToyEncoder | None = None, **settings: Any) -> EmbeddingPlan:
    embeddings = VolumeEmbeddings(network() if encoder is None else encoder, folder, batch_size=2, **settings)
    volumes = SliceStore(LoadScand(keys=["image", "label"])).prepare(data)
    return EmbeddingPlan(embeddings, volumes, [item["case"] for item in data])


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder of embeddings but its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture
def whole(data: list[dict], tmp_path: Path) -> dict[str, bytes]:
    """What one undisturbed process writes."""
    assert plan_of(data, tmp_path / "whole").carry_out() == 3
    return files(tmp_path / "whole")


def forked(work: Callable[..., None], *arguments: object) -> mp.Process:
    process = mp.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def test_what_is_missing_is_counted_and_computed_once(data: list[dict], tmp_path: Path) -> None:
    twice = [*data, {**data[0], "case": "again"}]
    plan_of(data[:1], tmp_path / "e").carry_out()
    encoder = network()
    plan = plan_of(twice, tmp_path / "e", encoder)
    assert (plan.slices, plan.missing, plan.missing_slices) == (15, [1, 2], 9)
    announced, before = plan.missing_bytes, plan.embeddings.store.size()
    assert plan.seconds() > 0
    encoder.encoded.clear()
    assert plan.carry_out() == 2
    assert encoder.encoded == [2, 2, 2, 2, 1]
    assert (plan.missing, plan.seconds(), plan.carry_out()) == ([], 0.0, 0)
    assert 0 <= announced - (plan.embeddings.store.size() - before) < 2 * embedding_plan.HEADER


def test_half_a_volume_is_gone_on_with(data: list[dict], tmp_path: Path, whole: dict[str, bytes]) -> None:
    plan = plan_of(data, tmp_path / "e")
    writer = plan.embeddings.begin(plan.keys[1], 4)
    assert writer is not None
    writer.put(2, VolumeEmbeddings(network(), tmp_path / "whole").reader(plan.keys[1])[2])
    writer.close()
    assert plan.carry_out() == 3
    assert files(tmp_path / "e") == whole


class Noting(ToyEncoder):
    """Writes down which process encodes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(batch_effect=0.1)
        self.folder = folder

    def embed(self, image: torch.Tensor) -> Any:
        (self.folder / f"{os.getpid()}-{len(list(self.folder.iterdir()))}").touch()
        return super().embed(image)


def ranked(rank: int, folder: Path, data: list[dict], cache: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        encoder = Noting(folder / "notes")
        encoder.load_state_dict(network().state_dict())
        items = EmbeddedSliceDataset(
            data,
            LoadScand(keys=["image", "label"]),
            cache_dir=folder / "cache",
            network=encoder,
            embedding_cache=cache,
            embedding_dir=folder / "embeddings",
            embedding_batch_size=2,
        )
        items.set_epoch(1)
        torch.save((sum(encoder.encoded), torch.stack([item["image"] for item in items])), folder / f"{rank}.pt")
    except Exception as error:
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        dist.destroy_process_group()


def two_ranks(folder: Path, data: list[dict], cache: str) -> None:
    (folder / "notes").mkdir()
    mp.start_processes(ranked, (folder, data, cache), nprocs=2, start_method="fork")


def test_processes_that_train_together_share_out_the_volumes(data: list[dict], tmp_path: Path) -> None:
    two_ranks(tmp_path, data, "disk")
    (first, seen), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (first, second) == (3 + 5, 4)
    assert torch.equal(seen, other)
    alone = Noting(tmp_path / "notes")
    alone.load_state_dict(network().state_dict())
    plan_of(data, tmp_path / "alone", alone).carry_out()
    assert files(tmp_path / "alone") == files(tmp_path / "embeddings")


def test_in_memory_each_process_has_them_all(data: list[dict], tmp_path: Path) -> None:
    two_ranks(tmp_path, data, "ram")
    (first, seen), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (first, second) == (12, 12)
    assert torch.equal(seen, other)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_an_error_in_one_process_stops_both(
    data: list[dict], tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Noting.embed

    def failing(self: Noting, image: torch.Tensor) -> Any:
        if dist.get_rank() == 1:
            raise InputError("b: cannot be encoded; look at it.")
        return real(self, image)

    monkeypatch.setattr(Noting, "embed", failing)
    two_ranks(tmp_path, data, cache)
    texts = [(tmp_path / f"{rank}.txt").read_text(encoding="utf-8") for rank in range(2)]
    assert texts == ["InputError: b: cannot be encoded; look at it."] * 2


def compute(folder: Path, data: list[dict], place: int) -> None:
    plan = plan_of(data, folder / "embeddings", network(pause=0.02))
    (folder / f"ready-{place}").touch()
    while not (folder / f"ready-{1 - place}").exists():
        time.sleep(0.001)
    (folder / f"computed-{place}").write_text(str(plan.carry_out()), encoding="ascii")
    assert all(plan.embeddings.has(key) for key in plan.keys)


def test_two_commands_at_once_write_what_one_would(data: list[dict], tmp_path: Path, whole: dict[str, bytes]) -> None:
    children = [forked(compute, tmp_path, data, place) for place in range(2)]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert files(tmp_path / "embeddings") == whole
    assert sum(int((tmp_path / f"computed-{place}").read_text(encoding="ascii")) for place in range(2)) == 3


def hold(folder: Path, data: list[dict]) -> None:
    """Begin a volume, say so, and neither go on nor let go."""
    plan = plan_of(data, folder / "embeddings")
    writer = plan.embeddings.begin(plan.keys[0], 3)
    assert writer is not None
    (folder / "held").touch()
    time.sleep(60)


def test_the_volume_of_a_process_that_dies_is_taken_over(
    data: list[dict], tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = forked(hold, tmp_path, data)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)

    def kill_and_wait(seconds: float) -> None:
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)

    monkeypatch.setattr(embedding_plan, "time", SimpleNamespace(sleep=kill_and_wait))  # while we wait for it
    assert plan_of(data, tmp_path / "embeddings").carry_out() == 3
    assert child.exitcode == -signal.SIGKILL
    assert files(tmp_path / "embeddings") == whole


def test_a_budget_for_less_than_all_is_told_before_anything_is_written(
    data: list[dict], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    need = sum(len(content) for content in whole.values())
    with pytest.raises(InputError, match=r"3 volumes \(12 slices\) take 0\.0 MB, and 0\.0 MB of size_budget .* raise"):
        plan_of(data, tmp_path / "e", size_budget=need - 1).check_room()
    assert not (tmp_path / "e").exists() or files(tmp_path / "e") == {}
    generous = plan_of(data, tmp_path / "e", size_budget=need + 3 * embedding_plan.HEADER)
    generous.check_room()
    writer = generous.embeddings.begin(generous.keys[0], 3)
    assert writer is not None
    writer.close()
    generous.check_room()  # what was begun is not counted twice
    generous.carry_out()
    generous.check_room()


def test_a_disk_for_less_than_all_is_told_first(
    data: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_plan, "free_bytes", lambda folder: 100)
    with pytest.raises(InputError, match=r"the disk has 0\.0 MB left; make room, or choose another disk"):
        plan_of(data, tmp_path / "e").check_room()


def test_a_disk_that_fills_up_leaves_whole_volumes_and_a_part(
    data: list[dict], tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = embedding_writer.write_at, 0

    def filling(file: Any, position: int, content: bytes) -> None:
        nonlocal count
        count += 1
        if count > 14:  # a header and three slices of three writes; of the next volume a slice and two thirds
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, position, content)

    with monkeypatch.context() as patch:
        patch.setattr(embedding_writer, "write_at", filling)
        with pytest.raises(InputError, match=r"the disk is full, .* make room and start again"):
            plan_of(data, tmp_path / "e").carry_out()
    plan = plan_of(data, tmp_path / "e")
    assert plan.missing == [1, 2]
    assert plan.embeddings.store.verify() == []
    assert plan.carry_out() == 2
    assert files(tmp_path / "e") == whole


def test_damaged_files_are_named_and_made_anew(data: list[dict], tmp_path: Path, whole: dict[str, bytes]) -> None:
    plan = plan_of([*data, data[1]], tmp_path / "e")
    plan.carry_out()
    assert plan.drop_damaged() == []
    path = plan.embeddings.store.path(plan.keys[1])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert [damage.split(": ", 1) for damage in plan.drop_damaged()] == [
        [str(path), "slice 3 differs from what was written; delete it and compute the embeddings anew."]
    ]
    assert plan.missing == [1]
    plan.carry_out()
    assert files(tmp_path / "e") == whole


def test_what_is_outdated_is_named_by_what_has_changed(data: list[dict], tmp_path: Path) -> None:
    plan_of(data, tmp_path / "e").carry_out()
    assert plan_of(data, tmp_path / "e").changes() == []
    rest = "they are computed anew, and the old ones stay until they are removed"
    changed = f"stored embeddings of {{}} are of another {{}}; {rest}"
    write_scan(tmp_path, "b", slices=4, seed=77)
    assert plan_of(data, tmp_path / "e").changes() == [changed.format("b", "image")]
    assert plan_of(data, tmp_path / "e", precision="float32").changes() == [
        changed.format("a, c", "precision"),
        changed.format("b", "image and precision"),
    ]
