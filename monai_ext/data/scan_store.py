# SPDX-License-Identifier: Apache-2.0
"""Whole scans read once and kept, in memory or on disk, so that patches can be cut out of them quickly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import monai_ext
from monai_ext.data._share_out import all_have_looked, share_out
from monai_ext.data.epoch_sampler import process_place
from monai_ext.data.fingerprint import describe, digest, file_identity
from monai_ext.errors import find_input_error
from monai_ext.files import atomic_write, write_json

Item = dict[str, Any]
KEPT = ("image", "body")
HALF_UP_TO = 16.0  # half precision keeps eleven bits, enough for what is scaled to about 0..1


@dataclass(frozen=True)
class StoredScan:
    """A scan and perhaps its mask, in memory or on disk.

    Args:
        affine: (axes + 1, axes + 1) float64, from voxels to RAS mm.
        files: file of each array, where they are on disk.
        arrays: the arrays, where they are in memory.
    """

    affine: Tensor
    files: dict[str, Path]
    arrays: dict[str, Tensor]

    def open(self) -> dict[str, MetaTensor]:
        """Return ``image`` and maybe ``body``, (C, *axes); of what is on disk only what is looked at is read.

        It is mapped anew each time: a map kept open costs a file handle, of which a process has about a thousand.
        """
        # copy on write, since torch does not know tensors that cannot be written
        mapped = {name: torch.from_numpy(np.load(file, mmap_mode="c")) for name, file in self.files.items()}
        return {name: MetaTensor(x, affine=self.affine) for name, x in (self.arrays | mapped).items()}


class ScanStore:
    """Reads each scan once and keeps it, with its mask.

    With ``cache_dir`` scans are written there, under names that change with the files (path, size, time of change), the
    reading and the versions, so that nothing outdated is ever used. Several processes share the work, and no more of
    a scan is in memory than what is cut out of it. Values up to 16 are kept in half precision.

    Args:
        reading: transform of one item, from paths to ``image`` and perhaps ``body``, (C, *axes) `MetaTensor`, without
            anything random.
        cache_dir: folder for the scans, None for memory.

    Example:
        >>> store = ScanStore(lambda item: {"image": MetaTensor(torch.rand(1, 4, 4, 4))})
        >>> store.prepare([{"image": "a.nii.gz"}])[0].open()["image"].shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(self, reading: Callable[[Item], Item], cache_dir: str | Path | None = None) -> None:
        self.reading = reading
        self.cache_dir = Path(cache_dir).expanduser().absolute() if cache_dir else None

    def prepare(self, data: Sequence[Item]) -> list[StoredScan]:
        """Read what has to be read; show the progress on a terminal.

        Raises:
            InputError: naming the file that cannot be read, in every process if in one.
        """
        if self.cache_dir is None:
            return [self._kept(item) for item in _with_progress(data)]
        keys = [self._key(item) for item in data]
        missing = {key: item for key, item in zip(keys, data, strict=True) if not self._record(key).exists()}
        all_have_looked()
        share_out(list(missing.items()), self._write_all)
        return [self._stored(key) for key in keys]

    def _key(self, item: Item) -> str:
        files = [item["image"]] if isinstance(item["image"], str) else item["image"]
        identity = [file_identity(file) for file in [*files, *([item["body"]] if "body" in item else [])]]
        return digest(identity, describe(self.reading), (monai_ext.__version__, monai.__version__))

    def _record(self, key: str) -> Path:
        return (self.cache_dir or Path()) / f"{key}.scan.json"

    def _read(self, item: Item) -> dict[str, Tensor]:
        try:
            found = self.reading(dict(item))
        except Exception as error:
            raise find_input_error(error) or error from None
        return {name: _compact(found[name]) for name in KEPT if name in found}

    def _kept(self, item: Item) -> StoredScan:
        scans = self._read(item)
        return StoredScan(_affine_of(scans["image"]), {}, {name: _plain(x) for name, x in scans.items()})

    def _write_all(self, entries: Sequence[tuple[str, Item]]) -> list[str]:
        """Write scans, and return their names."""
        for key, item in _with_progress(entries):
            self._write(key, item)
        return [key for key, _ in entries]

    def _write(self, key: str, item: Item) -> None:
        scans = self._read(item)
        for name, scan in scans.items():
            with atomic_write(self._array(key, name)) as temporary:
                np.save(temporary, _as_array(scan))
        # last, since its presence says that the arrays are whole
        write_json(self._record(key), {"affine": _affine_of(scans["image"]).tolist(), "arrays": list(scans)})

    def _stored(self, key: str) -> StoredScan:
        content = json.loads(self._record(key).read_text(encoding="utf-8"))
        affine = torch.tensor(content["affine"], dtype=torch.float64)
        return StoredScan(affine, {name: self._array(key, name) for name in content["arrays"]}, {})

    def _array(self, key: str, name: str) -> Path:
        return self._record(key).with_name(f"{key}.scan-{name}.npy")


def _compact(scan: Tensor) -> Tensor:
    """Return the scan in half precision where that keeps what there is to see."""
    small = float(scan.abs().max()) <= HALF_UP_TO if scan.numel() else False
    return scan.to(torch.float16 if small else torch.float32)


def _affine_of(scan: Tensor) -> Tensor:
    if not isinstance(scan, MetaTensor):
        return torch.eye(scan.ndim, dtype=torch.float64)
    return scan.affine.detach().cpu().double()


def _plain(scan: Tensor) -> Tensor:
    return (scan.as_tensor() if isinstance(scan, MetaTensor) else scan).contiguous()


def _as_array(scan: Tensor) -> NDArray[Any]:
    return _plain(scan).cpu().numpy()


def _with_progress(items: Sequence[Any]) -> Any:
    hidden = process_place()[0] > 0 or len(items) < 2 or not sys.stderr.isatty()
    return tqdm(items, desc="reading scans", unit="scan", disable=hidden)
