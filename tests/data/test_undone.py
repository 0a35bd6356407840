# SPDX-License-Identifier: Apache-2.0
"""After an interruption only what is missing is done, and a result counts only for what it was made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing as mp

from monai_ext.data import undone

FILES = ["{case}{ending}", "{case}_prompts.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four cases and weights, all of the same age, with no results."""
    for name in ("a.nii.gz", "b.nii.gz", "c.png", "d.nii.gz", "model.pt"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000, 1000))
    (tmp_path / "results").mkdir()
    return tmp_path


def items(folder: Path) -> list[dict[str, Any]]:
    images = ["a.nii.gz", "b.nii.gz", "c.png", "d.nii.gz"]
    return [{"case": image[0], "image": str(folder / image)} for image in images]


def finish(folder: Path, *names: str, when: int = 2000) -> None:
    for name in names:
        (folder / "results" / name).touch()
        os.utime(folder / "results" / name, (when, when))


def left(folder: Path, **settings: Any) -> list[str]:
    settings = {"made_from": [folder / "model.pt"], "files": FILES, **settings}
    return [item["case"] for item in undone(items(folder), folder / "results", **settings)]


def test_a_case_is_done_when_all_its_files_are_there(folder: Path) -> None:
    finish(folder, "a.nii.gz", "a_prompts.json", "b.nii.gz", "c.png", "c_prompts.json", "d_prompts.json")
    assert left(folder) == ["b", "d"]


def test_the_beginning_of_a_file_that_was_being_written_does_not_count(folder: Path) -> None:
    finish(folder, ".tmp-x1y2-a.nii.gz", "a_prompts.json")
    assert left(folder) == ["a", "b", "c", "d"]


def test_everything_is_done_again_unless_it_is_asked_for(folder: Path) -> None:
    finish(folder, "a.nii.gz", "a_prompts.json")
    assert left(folder, skip_done=False) == left(folder, skip_done="false") == ["a", "b", "c", "d"]
    assert left(folder, skip_done="True") == ["b", "c", "d"]


@pytest.mark.parametrize(("newer", "expected"), [("a.nii.gz", ["a", "c", "d"]), ("model.pt", ["a", "b", "c", "d"])])
def test_results_that_are_older_than_what_they_are_made_from_do_not_count(
    newer: str, expected: list[str], folder: Path
) -> None:
    finish(folder, "a.nii.gz", "a_prompts.json", "b.nii.gz", "b_prompts.json")
    os.utime(folder / newer, (3000, 3000))
    assert left(folder) == expected


def test_a_pair_depends_on_both_scans_and_its_points(folder: Path) -> None:
    pair = {"case": "p", "image": str(folder / "a.nii.gz"), "reference": str(folder / "b.nii.gz")}
    finish(folder, "p.csv")
    assert undone([pair], folder / "results", ["{case}.csv"]) == []
    os.utime(folder / "b.nii.gz", (3000, 3000))
    assert undone([pair], folder / "results", ["{case}.csv"]) == [pair]


def one_of_two(rank: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    (Path(folder) / f"left_{rank}").write_text("".join(left(Path(folder))), encoding="utf-8")
    dist.destroy_process_group()


def test_all_processes_get_the_same_list(folder: Path) -> None:
    finish(folder, "b.nii.gz", "b_prompts.json")
    mp.start_processes(one_of_two, (str(folder),), nprocs=2, start_method="fork")
    assert [(folder / f"left_{rank}").read_text(encoding="utf-8") for rank in (0, 1)] == ["acd", "acd"]
