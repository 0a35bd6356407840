# SPDX-License-Identifier: Apache-2.0
"""Several processes prepare one cache."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from monai_ext.data import EpochSampler, SliceDataset
from monai_ext.errors import InputError
from monai_ext.transforms import LoadScand


class Noting:
    """A reading that writes down which process read what."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.load = LoadScand(keys=["image"])

    def __call__(self, item: dict) -> dict:
        (Path(self.folder) / f"{item['case']}-{os.getpid()}").touch()
        return self.load(item)


def process(rank: int, folder: str, data: list[dict]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        dataset = SliceDataset(data, Noting(f"{folder}/notes"), cache_dir=f"{folder}/cache")
        sampler = EpochSampler(dataset, shuffle=False)
        torch.save([dataset[i]["image"] for i in sampler], f"{folder}/{rank}.pt")
    except Exception as error:
        Path(folder, f"{rank}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        dist.destroy_process_group()


def two_processes(folder: Path, data: list[dict]) -> None:
    # forked, since a new process takes long to import torch and monai
    mp.start_processes(process, (str(folder), data), nprocs=2, start_method="fork")


@pytest.fixture
def data(tmp_path: Path) -> list[dict]:
    (tmp_path / "notes").mkdir()
    for i in range(3):
        nib.save(nib.Nifti1Image(np.full((2, 2, 2), i, dtype=np.float32), np.eye(4)), tmp_path / f"{i}.nii")
    return [{"image": str(tmp_path / f"{i}.nii"), "case": str(i)} for i in range(3)]


def test_each_scan_is_read_by_one_process_and_seen_by_both(data: list[dict], tmp_path: Path) -> None:
    two_processes(tmp_path, data)
    notes = sorted(path.name.split("-") for path in (tmp_path / "notes").iterdir())
    assert [case for case, _ in notes] == ["0", "1", "2"]
    assert notes[0][1] == notes[2][1] != notes[1][1]
    seen = [[float(image.mean()) for image in torch.load(tmp_path / f"{rank}.pt")] for rank in range(2)]
    assert seen == [[0, 1, 2], [0, 1, 2]]


def test_an_error_in_one_process_stops_both(data: list[dict], tmp_path: Path) -> None:
    Path(data[1]["image"]).write_bytes(b"")
    two_processes(tmp_path, data)
    texts = [(tmp_path / f"{rank}.txt").read_text(encoding="utf-8") for rank in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("InputError: ")
    assert "1.nii: the file is empty" in texts[0]


def test_alone_the_error_is_the_same(data: list[dict], tmp_path: Path) -> None:
    Path(data[1]["image"]).write_bytes(b"")
    with pytest.raises(InputError, match=r"1.nii: the file is empty"):
        SliceDataset(data, LoadScand(keys=["image"]), cache_dir=tmp_path / "cache")
