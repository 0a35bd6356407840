# SPDX-License-Identifier: Apache-2.0
"""Studies that are folders are listed, converted when needed, and new studies never take the place of others."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from monai_ext.errors import InputError
from monai_ext.label.dicom_folders import DicomFolders
from monai_ext.label.dicomweb import FolderDicomWeb, Series


class Local:
    """As much of MONAI Label's datastore as ours builds on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed = ["a"]
        self.saved: list[tuple[str, str]] = []

    def refresh(self) -> None:
        names = self._list_files(str(self.folder), ("*.nii.gz",))  # type: ignore[attr-defined]
        self.listed = sorted(name.removesuffix(".nii.gz") for name in names)

    def list_images(self) -> list[str]:
        return self.listed

    def get_image_uri(self, image_id: str) -> str:
        found = [path for path in self.folder.iterdir() if path.name in (image_id, f"{image_id}.nii.gz")]
        return str(found[0]) if found else ""

    def _list_files(self, path: str, patterns: Any) -> dict[str, str]:
        return {file.name: file.name for file in Path(path).glob(patterns[0])}

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        self.saved.append((image_id, image_filename))
        return image_id

    def datalist(self, full_path: bool) -> list[dict[str, str]]:
        return [{"image": self.get_image_uri(name), "label": f"{name}.nii.gz"} for name in ("a", "ct")]


class Store(DicomFolders, Local):
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A scan and, come later, a DICOM series of four slices."""
    studies = tmp_path / "studies"
    (studies / "ct").mkdir(parents=True)
    (studies / "a.nii.gz").touch()
    (studies / ".tmp-x.nii.gz").touch()
    write_slices(studies / "ct", value=1)
    store = Store(studies)
    store.converted, store.web, store._converting = tmp_path / "converted", FolderDicomWeb(studies), Lock()
    return store


def write_slices(folder: Path, value: int) -> None:
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number in range(4):
        image = SimpleITK.GetImageFromArray(np.full((5, 6), 10 * number + value, np.int16))
        tags = {"0020|000e": "1.2.3", "0020|000d": "1.2", "0008|0018": f"1.2.3.{number}", "0008|0060": "CT"}
        for tag, text in {**tags, "0020|0032": f"0\\0\\{3 * number}", "0020|0037": "1\\0\\0\\0\\1\\0"}.items():
            image.SetMetaData(tag, text)
        writer.SetFileName(str(folder / f"{9 - number}.dcm"))
        writer.Execute(image)


def test_a_folder_that_came_after_the_start_is_a_study_and_a_half_written_file_is_none(store: Store) -> None:
    assert store.list_images() == ["a", "ct"]


def test_a_series_is_converted_once_with_its_slices_in_order(store: Store) -> None:
    file = store.get_image_uri("ct")
    assert np.asarray(nib.load(file).dataobj)[0, 0].tolist() == [1, 11, 21, 31]
    made = os.stat(file).st_ino
    assert os.stat(store.get_image_uri("ct")).st_ino == made


def test_a_series_that_has_changed_is_converted_again(store: Store) -> None:
    file = store.get_image_uri("ct")
    os.utime(file, (10**9, 10**9))
    write_slices(store.folder / "ct", value=2)
    assert np.asarray(nib.load(store.get_image_uri("ct")).dataobj)[0, 0].tolist() == [2, 12, 22, 32]


def test_a_series_may_be_called_by_its_uid(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderDicomWeb, "series", lambda self: {"1.2.3": Series("ct", ())})
    assert store.get_image_uri("1.2.3") == store.get_image_uri("ct")
    assert store.dicom_folder("1.2.3") == store.folder / "ct"


def test_training_gets_the_files_that_were_clicked_on(store: Store) -> None:
    images = [item["image"] for item in store.datalist()]
    assert images == [str(store.folder / "a.nii.gz"), str(store.converted / "ct.nii.gz")]


def test_a_file_that_is_no_image_among_them_is_told(store: Store) -> None:
    (store.folder / "ct" / "5.dcm").write_bytes(b"nothing")
    for number in range(4):
        (store.folder / "ct" / f"{9 - number}.dcm").unlink()
    with pytest.raises(InputError, match="ct: 0 DICOM series in the folder"):
        store.get_image_uri("ct")


def test_a_new_study_takes_a_name_of_its_own(store: Store) -> None:
    assert store.add_image("b", "/tmp/x.nii.gz", {}) == "b"
    for image, file, told in [
        ("a", "x.nii.gz", "there is a study a"),
        ("ct", "x.nii.gz", "there is a study ct"),
        ("../b", "x.nii.gz", "must be a name"),
        ("c", "x.py", "file: must be one of"),
    ]:
        with pytest.raises(InputError, match=told):
            store.add_image(image, file, {})
    assert store.saved == [("b", "/tmp/x.nii.gz")]
