# SPDX-License-Identifier: Apache-2.0
"""Labels, and the list of them, are what they were or what they should be at any moment, and say who saved them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from monai_ext.errors import InputError
from monai_ext.label import kept_labels
from monai_ext.label.asking_user import asking
from monai_ext.label.kept_labels import LONGEST_INFO, KeptLabels, with_checked_labels

local = pytest.importorskip("monailabel.datastore.local", reason="pip install --no-deps monailabel==0.8.5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Studies, and two labels to be sent."""
    (tmp_path / "studies").mkdir()
    for number in range(8):
        (tmp_path / "studies" / f"s{number}.nii.gz").write_bytes(b"scan")
    for value, name in enumerate(("old.nii.gz", "new.nii.gz", "new.nrrd"), start=1):
        voxels = SimpleITK.GetImageFromArray(np.full((2, 3, 4), value, np.uint8))
        SimpleITK.WriteImage(voxels, str(tmp_path / name))
    return tmp_path


def opened(folder: Path) -> Any:
    """The studies as another start of the server, or another process, finds them."""

    class Store(KeptLabels, local.LocalDatastore):
        _turn = threading.RLock()

    return Store(str(folder / "studies"), extensions=("*.nii.gz", "*.nrrd"))


def save(store: Any, folder: Path, file: str = "new.nii.gz", study: str = "s0", **info: Any) -> None:
    store.save_label(study, str(folder / file), "final", info)


def text(store: Any, study: str = "s0") -> str:
    """Which of the labels it is."""
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(store.get_label_uri(study, "final")))
    return {1: "old.nii.gz", 2: "new.nii.gz", 3: "new.nrrd"}[int(np.unique(found).item())]


def test_a_label_is_found_by_the_next_start(folder: Path) -> None:
    with asking("ada"):
        save(opened(folder), folder, reader="B.", user="eve")
    again = opened(folder)
    assert text(again) == "new.nii.gz"
    info = again.get_label_info("s0", "final")
    assert (info["user"], info["reader"], info["name"]) == ("ada", "B.", "s0.nii.gz")


@pytest.mark.parametrize("broken", ["copyfile", "dumps"])
def test_a_crash_while_a_label_is_replaced_leaves_the_old_one_or_the_new(
    broken: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(folder)
    save(store, folder, "old.nii.gz", reader="A.")

    def half(source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:30])
        raise KeyboardInterrupt

    def no_list(content: Any, **words: Any) -> str:
        return _dumps(content, **words) if "objects" not in content else _stop()

    monkeypatch.setattr(shutil, "copyfile", half if broken == "copyfile" else shutil.copyfile)
    monkeypatch.setattr(kept_labels.json, "dumps", no_list if broken == "dumps" else _dumps)
    with pytest.raises(KeyboardInterrupt):
        save(store, folder, "new.nii.gz", reader="B.")
    monkeypatch.undo()
    again = opened(folder)
    assert text(again) == {"copyfile": "old.nii.gz", "dumps": "new.nii.gz"}[broken]
    assert again.get_label_info("s0", "final")["reader"] == "A."
    assert sorted(os.listdir(folder / "studies" / "labels" / "final")) == ["s0.nii.gz"]


_dumps = json.dumps


def _stop() -> str:
    raise KeyboardInterrupt


def test_what_two_processes_save_is_all_there(folder: Path) -> None:
    stores = [opened(folder), opened(folder)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: save(stores[n % 2], folder, study=f"s{n}", number=n), range(8)))
    listed = opened(folder)
    assert [listed.get_label_info(f"s{n}", "final")["number"] for n in range(8)] == list(range(8))
    assert [text(listed, f"s{n}") for n in range(8)] == ["new.nii.gz"] * 8


def test_a_label_of_another_format_takes_the_place_of_the_old_one(folder: Path) -> None:
    store = opened(folder)
    save(store, folder, "old.nii.gz")
    save(store, folder, "new.nrrd")
    assert text(store) == "new.nrrd"
    assert sorted(os.listdir(folder / "studies" / "labels" / "final")) == ["s0.nrrd"]


def test_a_study_that_is_added_is_there_for_the_next_start(folder: Path) -> None:
    with asking("ada"):
        opened(folder).add_image("b", str(folder / "new.nii.gz"), {})
    assert "b" in opened(folder).list_images()
    assert opened(folder).get_image_info("b")["user"] == "ada"


def test_what_is_noted_later_does_not_change_who_saved_it(folder: Path) -> None:
    store = opened(folder)
    with asking("ada"):
        save(store, folder)
    with asking("bob"):
        store.update_label_info("s0", "final", {"reader": "C.", "user": "eve"})
    info = opened(folder).get_label_info("s0", "final")
    assert (info["user"], info["reader"]) == ("ada", "C.")


@pytest.mark.parametrize(
    ("study", "file", "info", "told"),
    [
        ("s9", "new.nii.gz", {}, "image: there is no study s9 here"),
        ("s0", "new.py", {}, r"label: must be one of \.nii\.gz, \.nrrd"),
        ("s0", "new.nii.gz", ["B."], "params: must be a JSON object, got a list"),
        ("s0", "new.nii.gz", {"a": "x" * LONGEST_INFO}, "params: may have 1000000 characters"),
    ],
)
def test_what_is_no_label_is_refused_in_a_line(study: str, file: str, info: Any, told: str, folder: Path) -> None:
    store = opened(folder)
    with pytest.raises(InputError, match=f"^{told}"):
        store.save_label(study, str(folder / file), "final", info)
    assert store.get_labeled_images() == []


def test_no_label_and_no_study_makes_the_server_read_another_file(folder: Path) -> None:
    (folder / "new.nrrd").write_text(f"NRRD0004\ndata file: {folder}/old.nii.gz\n\n", encoding="utf-8")
    store = opened(folder)
    with pytest.raises(InputError, match=r"^label: the header says"):
        save(store, folder, "new.nrrd")
    with pytest.raises(InputError, match=r"^file: the header says"):
        store.add_image("b", str(folder / "new.nrrd"), {})
    assert store.get_labeled_images() == []
    assert "b" not in opened(folder).list_images()


def test_a_store_of_a_dicomweb_server_gets_the_same_labels(folder: Path) -> None:
    class Remote:
        def __init__(self) -> None:
            self.saved: list[Any] = []

        def save_label(self, *words: Any) -> str:
            self.saved.append(words)
            return "s0"

    store = with_checked_labels(Remote())
    with asking("ada"):
        assert store.save_label("s0", str(folder / "new.nii.gz"), "final", {"user": "eve"}) == "s0"
        store.save_label("s0", str(folder / "label.bin"), "final", {})
    assert [words[3] for words in store.saved] == [{"user": "ada"}, {"user": "ada"}]
    (folder / "new.nrrd").write_text("NRRD0004\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^label: the header says"):
        store.save_label("s0", str(folder / "new.nrrd"), "final", {})


def test_a_list_that_is_damaged_is_told_with_the_remedy(folder: Path) -> None:
    opened(folder)
    (folder / "studies" / "datastore_v2.json").write_text('{"name": "half', encoding="utf-8")
    with pytest.raises(InputError, match=r"datastore_v2\.json: is no list of studies .*; remove it, it is made again"):
        opened(folder)
