# SPDX-License-Identifier: Apache-2.0
"""Scans and labels of pairs, each read once and kept on disk, or read whenever they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from monai_ext.data.fingerprint import describe, file_identity
from monai_ext.data.pair_source import PairSource
from monai_ext.data.scan_store import ScanStore, StoredScan
from monai_ext.errors import find_input_error

SCANS, LABELS = ("image", "reference"), ("label", "image_label", "reference_label")
Item = dict[str, Any]
Files = str | list[str]


class PairScans:
    """Opens scans and labels by their files.

    Args:
        reading: from ``{"image": files}`` to the scan as the network gets it, without anything random.
        label_reading: from ``{"label": file}`` to the labels on voxels of the same size.
        cache_dir: folder for all of them; None reads them anew each time.
    """

    def __init__(self, reading: Callable, label_reading: Callable | None, cache_dir: str | Path | None) -> None:
        self.readings: dict[str, Callable] = {"image": reading}
        if label_reading is not None:
            self.readings["label"] = _Renamed(label_reading)
        self.cache_dir = cache_dir
        self._how = describe(reading)
        self._stored: dict[tuple[str, ...], StoredScan] = {}

    def prepare(self, items: Sequence[Item]) -> PairScans:
        """Store what the items name, if it is to be stored; every process has to call it."""
        for kind, keys in (("image", SCANS), ("label", LABELS)):
            if self.cache_dir is None or kind not in self.readings:
                continue
            files = {_key(kind, item[key]): item[key] for item in items for key in keys if key in item}
            stored = ScanStore(self.readings[kind], self.cache_dir).prepare([{"image": f} for f in files.values()])
            self._stored.update(zip(files, stored, strict=True))
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Entries of an item that are opened as labels."""
        return LABELS if "label" in self.readings else ()

    def open_all(self, item: Item) -> dict[str, MetaTensor]:
        """Return all scans and labels that an item names."""
        opened = {key: self.open("image", item[key]) for key in SCANS if key in item}
        return {**opened, **{key: self.open("label", item[key]) for key in self.labels if key in item}}

    def open(self, kind: str, files: Files) -> MetaTensor:
        """Return a scan (``image``) or its labels (``label``)."""
        key = _key(kind, files)
        if key not in self._stored:
            return self._read(kind, files)
        found = self._stored[key].open()["image"]
        found.meta["filename_or_obj"] = _first(files)
        return found

    def source(self, name: str, fixed: Files, moving: Files) -> PairSource:
        """Return the pair for what aligns it."""
        identities = [[*map(file_identity, _listed(files)), self._how] for files in (fixed, moving)]
        openers = [partial(self.open, "image", files) for files in (fixed, moving)]
        return PairSource(name, identities[0], identities[1], openers[0], openers[1])

    def _read(self, kind: str, files: Files) -> MetaTensor:
        try:
            return self.readings[kind]({"image": files})["image"]
        except Exception as error:
            raise find_input_error(error) or error from None


class _Renamed:
    """A reading of ``label`` that is asked for an ``image``, as a `ScanStore` asks."""

    def __init__(self, reading: Callable) -> None:
        self.reading = reading

    def __call__(self, item: Item) -> Item:
        label = self.reading({"label": item["image"]})["label"]
        return {"image": label if isinstance(label, MetaTensor) else MetaTensor(label, affine=torch.eye(4))}


def _key(kind: str, files: Files) -> tuple[str, ...]:
    return (kind, *_listed(files))


def _listed(files: Files) -> list[str]:
    return [files] if isinstance(files, str) else list(files)


def _first(files: Files) -> str:
    return _listed(files)[0]
