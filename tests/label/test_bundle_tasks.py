# SPDX-License-Identifier: Apache-2.0
"""Served bundles do the work on a scan once, however often and by however many users it is clicked on."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.label.bundle_tasks import build_tasks
from monai_ext.label.kept_scans import KeptScans
from monai_ext.label.model_kind import model_kind
from monai_ext.transforms import LoadScand
from tests.label.toy import write_bundle, write_scan

pytest.importorskip("monailabel.tasks.infer.bundle", reason="pip install --no-deps monailabel==0.8.5")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The scans that are read from the disk, as they are."""
    names: list[str] = []
    read = LoadScand.__call__

    def counted(self: LoadScand, data: dict[str, Any], reader: Any = None) -> Any:
        names.append(Path(data["image"]).name)
        return read(self, data, reader)

    monkeypatch.setattr(LoadScand, "__call__", counted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return names


@pytest.fixture
def models(tmp_path: Path, loaded: list[str]) -> dict[str, Any]:
    return build_tasks(write_bundle(tmp_path / "toy"), {}, KeptScans(10**6), tmp_path)


def click(task: Any, image: Path, *places: list[int]) -> np.ndarray:
    """What a client gets for clicks on the object, on the slice of the first one."""
    request = {"image": str(image), "foreground": list(places), "slice": places[0][2]} if places else {}
    file, _ = task({"device": "cpu", "image": str(image), "result_extension": ".nii.gz", **request})
    return np.asarray(nib.load(file).dataobj)


def encoded(task: Any) -> list[int]:
    return task._networks["cpu"][0].encoded


def test_the_second_click_neither_reads_nor_encodes(models: dict[str, Any], loaded: list[str], tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "a.nii.gz")
    assert np.argwhere(click(models["toy"], scan, [1, 2, 4])).tolist() == [[1, 2, 4]]
    assert np.argwhere(click(models["toy"], scan, [1, 2, 4], [3, 0, 4])).tolist() == [[1, 2, 4], [3, 0, 4]]
    assert (loaded, encoded(models["toy"])) == (["a.nii.gz"], [1])


def test_a_click_on_another_slice_encodes_that_slice_alone(
    models: dict[str, Any], loaded: list[str], tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "a.nii.gz")
    for place in ([1, 2, 4], [1, 2, 3], [0, 0, 4]):
        assert np.argwhere(click(models["toy"], scan, place)).tolist() == [place]
    assert (loaded, encoded(models["toy"])) == (["a.nii.gz"], [1, 1])


def test_users_on_two_scans_at_once_get_their_own_results(
    models: dict[str, Any], loaded: list[str], tmp_path: Path
) -> None:
    scans = [write_scan(tmp_path / f"{seed}.nii.gz", seed) for seed in range(2)]
    wanted = [(scans[n % 2], [n % 4, n % 5, n % 6]) for n in range(24)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda one: click(models["toy"], *one), wanted))
        whole = list(pool.map(lambda scan: click(models["toy_automatic"], scan), scans * 3))
    assert [np.argwhere(labels).tolist() for labels in results] == [[place] for _, place in wanted]
    for labels, scan in zip(whole, scans * 3, strict=True):
        np.testing.assert_array_equal(labels, np.asarray(nib.load(scan).dataobj) > 0.5)
    assert sorted(loaded) == ["0.nii.gz", "1.nii.gz"]


def test_a_scan_that_has_changed_is_read_again(models: dict[str, Any], loaded: list[str], tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "a.nii.gz", seed=0)
    click(models["toy_automatic"], scan)
    write_scan(scan, seed=1)
    os.utime(scan, (10**9, 10**9))  # a clock may be too coarse to tell the two apart
    labels = click(models["toy_automatic"], scan)
    np.testing.assert_array_equal(labels, np.asarray(nib.load(scan).dataobj) > 0.5)
    assert loaded == ["a.nii.gz"] * 2


def test_without_room_results_are_the_same(tmp_path: Path, loaded: list[str]) -> None:
    task = build_tasks(write_bundle(tmp_path / "toy"), {}, KeptScans(0), tmp_path)["toy"]
    scan = write_scan(tmp_path / "a.nii.gz")
    for place in ([1, 2, 4], [3, 0, 4]):
        assert np.argwhere(click(task, scan, place)).tolist() == [place]
    assert loaded == ["a.nii.gz"] * 2


def test_viewers_find_click_tools_for_one_model_and_a_button_for_the_other(models: dict[str, Any]) -> None:
    types = {name: task.info()["type"] for name, task in models.items()}
    assert types == {"toy": "deepgrow", "toy_automatic": "segmentation"}
    assert all(task.info()["labels"] == {"object": 1} for task in models.values())


def test_both_models_have_one_network(models: dict[str, Any]) -> None:
    networks = {id(task._get_network("cpu", None)) for task in models.values()}
    assert len(networks) == 1


@pytest.mark.parametrize(
    ("lacking", "told"), [("configs/inference.json", "cannot be read"), ("models/model.pt", "no weights; train")]
)
def test_a_bundle_that_cannot_be_served_says_why(lacking: str, told: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "toy")
    (folder / lacking).unlink()
    with pytest.raises(InputError, match=told):
        model_kind(folder)
