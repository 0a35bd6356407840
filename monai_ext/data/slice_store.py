# SPDX-License-Identifier: Apache-2.0
"""Volumes read once and kept as stacks of slices, in memory or on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tqdm import tqdm

import monai_ext
from monai_ext.data.epoch_sampler import process_place
from monai_ext.data.fingerprint import describe, digest, file_identity
from monai_ext.data.slices import stack_view, upright
from monai_ext.errors import InputError, find_input_error, message_of
from monai_ext.files import atomic_write, write_json
from monai_ext.scan_files import is_raster

Item = dict[str, Any]
Slices = tuple[NDArray[np.float32], NDArray[np.uint8] | None]


@dataclass
class StoredVolume:
    """Slices of one scan: which of them show an object, and how to get at them.

    Args:
        foreground: (N,) whether the slice has a label other than 0; without a label, whether its values differ at all.
        folder: of the files, None if the slices are in memory or read anew.
        key: name of the files in the folder.
        slices: image (N, C, H, W) and label (N, 1, H, W), None if they are elsewhere.
        read: called for the slices where they are neither in memory nor on disk.
    """

    foreground: NDArray[np.bool_]
    folder: Path | None = None
    key: str = ""
    slices: Slices | None = field(default=None, repr=False)
    read: Callable[[], Slices] | None = field(default=None, repr=False)

    def open(self) -> Slices:
        """Return the slices; those on disk are mapped, so that only what is looked at is read.

        They are mapped anew each time: a map kept open costs a file handle, of which a process has about a thousand.
        """
        if self.slices is not None:
            return self.slices
        if self.read is not None:
            return self.read()
        folder = self.folder or Path()
        label = folder / f"{self.key}.label.npy"
        return (
            np.load(folder / f"{self.key}.image.npy", mmap_mode="r"),
            np.load(label, mmap_mode="r") if label.exists() else None,
        )


class SliceStore:
    """Reads each scan once and keeps its slices.

    Without ``cache_dir`` volumes stay in memory, exactly as read; pictures, which are quick to read, are read anew
    each time. With ``cache_dir`` all are written there, under names that change with the files (path, size, time
    of change), the reading and the versions, so that nothing outdated is ever used. Several processes share the work.

    Args:
        reading: transform of one item, from paths to tensors (C, X, Y[, Z]).
        plane: ``axial``, ``coronal`` or ``sagittal``.
        cache_dir: folder for the slices, None for memory.
        need_labels: whether a picture is to be looked at before it is asked for.
    """

    def __init__(
        self,
        reading: Callable[[Item], Item],
        plane: str = "axial",
        cache_dir: str | Path | None = None,
        need_labels: bool = True,
    ) -> None:
        self.reading = reading
        self.plane = plane
        self.cache_dir = Path(cache_dir).expanduser().absolute() if cache_dir else None
        self.need_labels = need_labels

    def prepare(self, data: Sequence[Item]) -> list[StoredVolume]:
        """Read what has to be read; show the progress on a terminal.

        Raises:
            InputError: naming the file that cannot be read, in every process if in one.
        """
        rank, processes = process_place()
        if self.cache_dir is None:
            return [self._keep(item) for item in _with_progress(data, rank)]
        keys = [self._key(item) for item in data]
        self._share(data, keys, rank, processes)
        return [_stored(self.cache_dir, key) for key in keys]

    def read(self, item: Item) -> Slices:
        """Read one item and return its upright slices."""
        try:
            result = self.reading(dict(item))
        except Exception as error:
            raise find_input_error(error) or error from None
        image = _upright_stack(result["image"], self.plane).to(torch.float32).contiguous().numpy()
        if "label" not in result:
            return image, None
        return image, _upright_stack(result["label"], self.plane).to(torch.uint8).contiguous().numpy()

    def _keep(self, item: Item) -> StoredVolume:
        if not _is_picture(item):
            image, label = self.read(item)
            return StoredVolume(_foreground(image, label), slices=(image, label))
        foreground = _foreground(*self.read(item)) if self.need_labels else np.ones(1, dtype=bool)
        return StoredVolume(foreground, read=_Reading(self, item))

    def _key(self, item: Item) -> str:
        files = [item["image"]] if isinstance(item["image"], str) else item["image"]
        identity = [file_identity(file) for file in [*files, *([item["label"]] if "label" in item else [])]]
        versions = (monai_ext.__version__, monai.__version__)
        return digest(identity, describe(self.reading), self.plane, versions)

    def _share(self, data: Sequence[Item], keys: list[str], rank: int, processes: int) -> None:
        missing = list({key: item for key, item in zip(keys, data, strict=True) if not self._has(key)}.items())
        if processes > 1:
            dist.barrier()  # all have looked before the first one writes, so all share out the same list
        failure: Exception | None = None
        try:
            for key, item in _with_progress(missing[rank::processes], rank):
                self._write(key, item)
        except Exception as error:
            failure = error
        raise_together(failure, processes)

    def _has(self, key: str) -> bool:
        return self.cache_dir is not None and (self.cache_dir / f"{key}.json").exists()

    def _write(self, key: str, item: Item) -> None:
        image, label = self.read(item)
        folder = self.cache_dir or Path()
        for name, array in (("image", image), ("label", label)):
            if array is not None:
                with atomic_write(folder / f"{key}.{name}.npy") as temporary:
                    np.save(temporary, array)
        # last, since its presence says that the arrays are whole
        write_json(folder / f"{key}.json", {"foreground": _foreground(image, label).astype(int).tolist()})


@dataclass
class _Reading:
    """A reading put off; a class, since worker processes may have to pickle it."""

    store: SliceStore
    item: Item

    def __call__(self) -> Slices:
        return self.store.read(self.item)


def _stored(folder: Path, key: str) -> StoredVolume:
    content = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    return StoredVolume(np.asarray(content["foreground"], dtype=bool), folder=folder, key=key)


def _upright_stack(image: torch.Tensor, plane: str) -> torch.Tensor:
    plain = torch.as_tensor(image).detach().cpu()
    plain = plain.as_tensor() if hasattr(plain, "as_tensor") else plain
    if plain.ndim not in (3, 4):
        raise InputError(f"an image of shape (channels, x, y[, z]) is wanted, got {tuple(plain.shape)}.")
    return upright(stack_view(plain, plane), is_volume=plain.ndim == 4)


def _foreground(image: NDArray[np.float32], label: NDArray[np.uint8] | None) -> NDArray[np.bool_]:
    if label is None:
        values = image.reshape(len(image), -1)
        return np.asarray(values.min(axis=1) < values.max(axis=1))
    return np.asarray(label.reshape(len(label), -1).any(axis=1))


def _is_picture(item: Item) -> bool:
    image = item["image"]
    return is_raster(image if isinstance(image, str) else image[0])


def _with_progress(items: Sequence[Any], rank: int) -> Any:
    hidden = rank > 0 or len(items) < 2 or not sys.stderr.isatty()
    return tqdm(items, desc="reading scans", unit="scan", disable=hidden)


def raise_together(failure: Exception | None, processes: int) -> None:
    """Raise in every process if one has failed: the others would wait for it for ever."""
    if processes == 1:
        if failure is not None:
            raise failure
        return
    texts: list[Any] = [None] * processes
    dist.all_gather_object(texts, None if failure is None else _text_of(failure))
    if failure is not None:
        raise failure
    text = next((text for text in texts if text), None)
    if text is not None:
        raise InputError(text)


def _text_of(failure: Exception) -> str:
    return message_of(failure) if isinstance(failure, InputError) else repr(failure)
