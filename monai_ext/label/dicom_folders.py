# SPDX-License-Identifier: Apache-2.0
"""Studies in a folder: image files, as MONAI Label takes them, and DICOM series in sub-folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.label.dicomweb import FolderDicomWeb
from monai_ext.label.kept_labels import KeptLabels
from monai_ext.label.request_rules import check_name
from monai_ext.scan_files import is_dicom_folder

EXTENSIONS = ("*.nii.gz", "*.nii", "*.nrrd", "*.mha", "*.jpg", "*.jpeg", "*.png", "*.tif", "*.tiff", "*.bmp")


class DicomFolders:
    """What our datastore does beyond MONAI Label's `LocalDatastore`, before which it stands among the base classes.

    A sub-folder with the files of one DICOM series is a study, whose id is the folder's name. It is converted to NIfTI
    when it is first asked for, as MONAI Label does with DICOMweb: clients download the very grid in which they click.
    OHIF calls it by the series' UID, and finds it in ``web``.
    """

    converted: Path
    web: FolderDicomWeb
    _converting: Lock

    def name_of(self, image_id: str) -> str:
        """Return the id of a study, given that or the UID of its DICOM series."""
        if image_id in self.list_images():
            return image_id
        series = self.web.series().get(image_id)
        return image_id if series is None else series.name

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take a new study.

        Raises:
            InputError: its name is none, or there is a study of this name, or the file is no scan.
        """
        if check_name("image", image_id) in self.list_images():
            raise InputError(f"image: there is a study {image_id}; give the new one another name.")
        if not image_filename.endswith(tuple(pattern[1:] for pattern in EXTENSIONS)):
            raise InputError(f"file: must be one of {', '.join(EXTENSIONS)}.")
        return super().add_image(image_id, image_filename, image_info)  # type: ignore[misc]

    def get_image_uri(self, image_id: str) -> str:
        """Return the file of a study.

        Raises:
            InputError: the folder's series cannot be read.
        """
        uri: str = super().get_image_uri(self.name_of(image_id))  # type: ignore[misc]
        if not uri or not os.path.isdir(uri):
            return uri
        file = self.converted / f"{os.path.basename(uri)}.nii.gz"
        with self._converting:
            if not file.is_file() or file.stat().st_mtime < os.stat(uri).st_mtime:
                _convert(Path(uri), file)
        return str(file)

    def dicom_folder(self, image_id: str) -> Path | None:
        """Return the folder of a study's DICOM series, None if it is none."""
        uri = super().get_image_uri(self.name_of(image_id))  # type: ignore[misc]
        return Path(uri) if uri and os.path.isdir(uri) else None

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label; OHIF's client sends voxels without a header, one byte each, which get that of the study.

        Raises:
            InputError: there is no such study, or the file has not as many voxels, or is no label.
        """
        name = self.name_of(image_id)
        if not label_filename.endswith(".bin"):
            return super().save_label(name, label_filename, label_tag, label_info)  # type: ignore[misc]
        from monailabel.datastore.utils.convert import binary_to_image

        if name not in self.list_images():
            raise InputError(f"image: there is no study {name} here; GET /datastore/?output=all lists them.")
        try:
            file = binary_to_image(self.get_image_uri(name), label_filename)
        except ValueError as error:
            raise InputError(f"label: must have a byte for each voxel of {name} ({error}).") from error
        try:
            return super().save_label(name, file, label_tag, label_info)  # type: ignore[misc]
        finally:
            os.unlink(file)

    def list_images(self) -> list[str]:
        """Return the ids of all studies, of folders that came since the start, too."""
        self._notice_folders()
        return super().list_images()  # type: ignore[misc]

    def json(self) -> Any:
        """Return all studies and labels."""
        self._notice_folders()
        return super().json()  # type: ignore[misc]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Return the studies with final labels, for training."""
        listed = super().datalist(full_path)  # type: ignore[misc]
        for item in listed:
            if os.path.isdir(item["image"]):
                item["image"] = self.get_image_uri(os.path.basename(item["image"]))
        return listed

    def _notice_folders(self) -> None:
        """Look for new series: MONAI Label watches for new files of its own types alone."""
        known = set(super().list_images())  # type: ignore[misc]
        if {name for name in self._folders(self.web.studies) if name not in known}:
            self.refresh()  # type: ignore[attr-defined]

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = super()._list_files(path, patterns)  # type: ignore[misc]
        found = {name: file for name, file in found.items() if not name.startswith(".")}
        return found | {name: name for name in self._folders(path)}

    @staticmethod
    def _folders(path: str | Path) -> list[str]:
        entries = sorted(entry for entry in Path(path).iterdir() if not entry.name.startswith("."))
        return [entry.name for entry in entries if is_dicom_folder(entry)]


def local_datastore(studies: str, converted: Path) -> Any:
    """Return the studies of a folder.

    Args:
        studies: the folder; labels are kept there, too.
        converted: folder for what DICOM series become.
    """
    from monailabel.config import settings
    from monailabel.datastore.local import LocalDatastore

    class Studies(DicomFolders, KeptLabels, LocalDatastore):
        pass

    Studies.converted, Studies.web, Studies._converting = converted, FolderDicomWeb(studies), Lock()
    Studies._turn = RLock()
    store = Studies(studies, extensions=EXTENSIONS, auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD)
    if hasattr(store, "_handler"):
        store._handler.on_moved = store._on_any_event  # as files come that are written whole or not at all
    return store


def _convert(series: Path, file: Path) -> None:
    """Write a series as NIfTI, its slices in the order of their places."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    ids = reader.GetGDCMSeriesIDs(str(series))
    if len(ids) != 1:
        raise InputError(f"{series.name}: {len(ids)} DICOM series in the folder, wanted 1; give each a folder.")
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series), ids[0]))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{series.name}: the DICOM series cannot be read ({str(error).splitlines()[-1]}).") from error
    with atomic_write(file) as temporary:
        SimpleITK.WriteImage(image, str(temporary))
