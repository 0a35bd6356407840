# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from monai.transforms import Compose, Lambdad, Orientationd, ScaleIntensityRanged, Spacingd

from monai_ext.data.fingerprint import describe, digest, file_identity
from monai_ext.transforms import LoadScand, ScaleScand

CHANGES: list[tuple[Callable, Callable]] = [
    (lambda: ScaleScand(["image"]), lambda: ScaleScand(["image"], lower=1)),
    (lambda: ScaleScand(["image"]), lambda: ScaleScand(["scan"])),
    (lambda: Orientationd(["image"], "RAS", labels=None), lambda: Orientationd(["image"], "LPS", labels=None)),
    (lambda: Spacingd(["image"], (1, 1, 2)), lambda: Spacingd(["image"], (1, 1, 3))),
    (lambda: Lambdad(["image"], lambda x: x + 1), lambda: Lambdad(["image"], lambda x: x + 2)),
    (lambda: Compose([LoadScand(["image"]), ScaleScand(["image"])]), lambda: Compose([LoadScand(["image"])])),
    (lambda: np.arange(3), lambda: np.arange(3.0)),
    (lambda: torch.arange(3), lambda: torch.arange(4)),
    (lambda: {1, 2}, lambda: {1, 3}),
    (lambda: True, lambda: 1.5),
]


@pytest.mark.parametrize(("one", "other"), CHANGES)
def test_equal_settings_are_described_equally_and_others_are_not(one: Callable, other: Callable) -> None:
    assert describe(one()) == describe(one())
    assert describe(one()) != describe(other())


def test_random_states_do_not_matter() -> None:
    chain = Compose([ScaleIntensityRanged(["image"], 0, 1)])
    before = describe(chain)
    assert describe(chain.set_random_state(seed=7)) == before


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_having_worked_does_not_matter(suffix: str, tmp_path: Path) -> None:
    path = str(tmp_path / f"scan{suffix}")
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(np.random.default_rng(0).random((6, 7, 8), dtype=np.float32)), path
    )
    steps = [LoadScand(["image"]), Orientationd(["image"], "SPL", labels=None), Spacingd(["image"], (1, 1, 2))]
    chain = Compose([*steps, ScaleScand(["image"])])
    before = describe(chain)
    chain({"image": path})
    assert describe(chain) == before


def test_objects_that_hold_themselves_are_no_trap() -> None:
    loop: list = [1]
    loop.append(loop)
    assert describe(loop) == ["list", ["1", "list"]]


CHAIN = """
from monai.transforms import Compose, Lambdad, Orientationd
from monai_ext.data.fingerprint import describe, digest
from monai_ext.transforms import CheckScand, LoadScand, ScaleScand
chain = Compose([LoadScand(["image", "label"]), CheckScand(["image"], "label", 2), ScaleScand(["image"]),
    Orientationd(["image"], "RAS", labels=None), Lambdad(["image"], lambda x: x * 2)])
result = digest(describe(chain), describe({"b", "a", "c"}))
"""


def test_another_process_describes_the_same() -> None:
    here: dict = {"__name__": "__main__"}
    exec(CHAIN, here)
    command = [sys.executable, "-c", f"{CHAIN}\nprint(result)"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"})
    assert there.stdout.strip() == here["result"]


def test_a_folder_and_a_second_file_belong_to_the_identity(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text("header", encoding="utf-8")
    (tmp_path / "a.raw").write_text("voxels", encoding="utf-8")
    (tmp_path / "b.raw").write_text("others", encoding="utf-8")
    assert [Path(name).name for name, *_ in file_identity(tmp_path / "a.mhd")] == ["a.mhd", "a.raw"]
    assert [Path(name).name for name, *_ in file_identity(tmp_path)] == ["a.mhd", "a.raw", "b.raw"]
    before = digest(file_identity(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").write_text("more voxels", encoding="utf-8")
    assert digest(file_identity(tmp_path / "a.mhd")) != before
