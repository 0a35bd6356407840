# SPDX-License-Identifier: Apache-2.0
"""Preprocessed scans, kept between the clicks on them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from copy import deepcopy
from threading import Lock

from monai.data import MetaTensor


class KeptScans:
    """The scans used last, by key, up to a number of bytes; threads may share it.

    Whoever asks first for a scan makes it, and all who ask meanwhile wait for that one. Everyone gets a tensor of
    their own over the same voxels, with metadata that nobody else sees; the voxels must not be written to.

    Args:
        limit: bytes of all scans together. A scan that is larger is made anew each time.

    Raises:
        ValueError: the limit is negative.

    Example:
        >>> import torch
        >>> kept = KeptScans(limit=1000)
        >>> kept.get("a", lambda: MetaTensor(torch.zeros(1, 4, 4))).shape
        torch.Size([1, 4, 4])
        >>> len(kept)
        1
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"limit must be 0 or more bytes, got {limit}.")
        self.limit = limit
        self._entries: OrderedDict[Hashable, Future[MetaTensor]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], MetaTensor]) -> MetaTensor:
        """Return the scan of this key, made first if it is not there; an error of ``make`` reaches all who wait."""
        with self._lock:
            entry = self._entries.get(key)
            mine = entry is None
            if entry is None:
                entry = self._entries[key] = Future()
            self._entries.move_to_end(key)
        if mine:
            self._fill(key, entry, make)
        return _own(entry.result())

    def _fill(self, key: Hashable, entry: Future[MetaTensor], make: Callable[[], MetaTensor]) -> None:
        try:
            entry.set_result(make())
        except BaseException as error:
            with self._lock:
                self._entries.pop(key, None)  # the next one tries again
            entry.set_exception(error)
            return
        with self._lock:
            self._make_room()

    def _make_room(self) -> None:
        sizes = {key: _bytes(entry.result()) for key, entry in self._entries.items() if entry.done()}
        total = sum(sizes.values())
        for key, size in sizes.items():  # those not used for longest come first
            if total <= self.limit:
                return
            del self._entries[key]
            total -= size


def _own(scan: MetaTensor) -> MetaTensor:
    return MetaTensor(scan.as_tensor(), meta=deepcopy(scan.meta), applied_operations=deepcopy(scan.applied_operations))


def _bytes(scan: MetaTensor) -> int:
    return scan.numel() * scan.element_size()
