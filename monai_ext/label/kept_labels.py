# SPDX-License-Identifier: Apache-2.0
"""Studies and labels in a folder, written whole or not at all, with the name of who saved them."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import RLock
from typing import Any

from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.label.asking_user import signed
from monai_ext.label.sent_scan import check_sent_scan

logger = logging.getLogger(__name__)

LONGEST_INFO = 1_000_000  # characters of JSON, kept in the list of studies, which is written anew for each label


class KeptLabels:
    """What our datastore does beyond MONAI Label's `LocalDatastore`, before which it stands among the base classes.

    MONAI Label writes over the old label and the old list of studies, so a server that is killed in that moment
    leaves half a file; the list is then refused at the next start. Here both are replaced in one step. Threads take
    turns, and read what a background process wrote before they write themselves, so that no entry is lost.
    """

    # what MONAI Label's class has
    _datastore: Any
    _datastore_path: str
    _datastore_config_path: str
    _lock_file: str
    _extensions: tuple[str, ...]

    _turn: RLock
    _read_state: tuple[int, int] | None = None  # of the list on the disk, when it was read or written here

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take a new study.

        Raises:
            InputError: the file is no scan, or too much is said of it.
        """
        from monailabel.datastore.local import DataModel, ImageLabelModel

        suffix = self._suffix("file", image_filename)
        check_sent_scan("file", image_filename)
        entry = DataModel(info=_info("params", image_info, f"{image_id}{suffix}"), ext=suffix)
        with self._changing():
            _copy(image_filename, Path(self._datastore.image_path()) / f"{image_id}{suffix}")
            self._datastore.objects[image_id] = ImageLabelModel(image=entry)
            self._update_datastore_file(lock=False)
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label of a study, or replace it.

        Raises:
            InputError: there is no such study, the file is no scan, or too much is said of it.
        """
        from monailabel.datastore.local import DataModel

        suffix = self._suffix("label", label_filename)
        check_sent_scan("label", label_filename)
        entry = DataModel(info=_info("params", label_info, f"{image_id}{suffix}"), ext=suffix)
        with self._changing():
            study = self._datastore.objects.get(image_id)
            if study is None:
                raise InputError(f"image: there is no study {image_id} here; GET /datastore/?output=all lists them.")
            folder = Path(self._datastore.label_path(label_tag))
            _copy(label_filename, folder / f"{image_id}{suffix}")
            before = study.labels.get(label_tag)
            study.labels[label_tag] = entry
            self._update_datastore_file(lock=False)
            if before is not None and before.ext != suffix:
                (folder / f"{image_id}{before.ext}").unlink(missing_ok=True)
        return image_id

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something with a study.

        Raises:
            InputError: it is no JSON object, or too long.
        """
        with self._turn:
            super().update_image_info(image_id, checked_info("info", info))  # type: ignore[misc]

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something with a label; who saved it stays who did.

        Raises:
            InputError: it is no JSON object, or too long.
        """
        noted = {name: value for name, value in checked_info("info", info).items() if name != "user"}
        with self._turn:
            super().update_label_info(label_id, label_tag, noted)  # type: ignore[misc]

    def _suffix(self, name: str, file: str) -> str:
        known = [pattern.removeprefix("*") for pattern in self._extensions]
        suffix = next((suffix for suffix in known if file.endswith(suffix)), None)
        if suffix is None:
            raise InputError(f"{name}: must be one of {', '.join(known)}.")
        return suffix

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other threads and processes from the list of studies, which is as it is on the disk meanwhile."""
        from filelock import FileLock

        with self._turn, FileLock(self._lock_file):
            self._read()
            yield

    def _reconcile_datastore(self) -> None:
        with self._turn:
            super()._reconcile_datastore()  # type: ignore[misc]

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        try:
            with self._changing():
                pass
        except ValueError as error:
            path = self._datastore_config_path
            if throw_exception:
                why = str(error).splitlines()[0]
                raise InputError(f"{path}: is no list of studies ({why}); remove it, it is made again.") from error
            logger.exception("%s cannot be read", path)

    def _update_datastore_file(self, lock: bool = True) -> None:
        from filelock import FileLock

        path = Path(self._datastore_config_path)
        with self._turn, FileLock(self._lock_file) if lock else nullcontext():
            content = self._datastore.model_dump(exclude={"base_path"})
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
            self._read_state = _state(path)

    def _read(self) -> None:
        path = Path(self._datastore_config_path)
        if path.exists() and _state(path) != self._read_state:
            content = path.read_text(encoding="utf-8")
            self._datastore = type(self._datastore).model_validate_json(content)
            self._datastore.base_path = self._datastore_path
            self._read_state = _state(path)


def with_checked_labels(store: Any) -> Any:
    """Let a store of MONAI Label's own, of a DICOMweb server, take labels only after the same checks."""
    save = store.save_label

    def save_label(image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> Any:
        if not label_filename.endswith(".bin"):  # voxels alone
            check_sent_scan("label", label_filename)
        return save(image_id, label_filename, label_tag, checked_info("params", label_info))

    store.save_label = save_label
    return store


def checked_info(name: str, info: object) -> dict[str, Any]:
    """Return what a client says of a label or study, with ``user`` as the server knows it.

    Raises:
        InputError: it is no JSON object, or too long.

    Example:
        >>> checked_info("info", {"reader": "B."})
        {'reader': 'B.'}
    """
    if not isinstance(info, dict):
        raise InputError(f"{name}: must be a JSON object, got a {type(info).__name__}.")
    length = len(json.dumps(info, default=str))
    if length > LONGEST_INFO:
        raise InputError(f"{name}: may have {LONGEST_INFO} characters, got {length}.")
    return signed(info)


def _info(name: str, info: object, file: str) -> dict[str, Any]:
    return {**checked_info(name, info), "ts": int(time.time()), "name": file}


def _copy(source: str, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _state(path: Path) -> tuple[int, int]:
    """Return what changes whenever a file is replaced, however fast that happens."""
    found = path.stat()
    return found.st_mtime_ns, found.st_ino
