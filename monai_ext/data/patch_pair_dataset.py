# SPDX-License-Identifier: Apache-2.0
"""Pairs of patches of many scans, for learning without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from monai_ext.data.scan_store import ScanStore
from monai_ext.errors import InputError, find_input_error


class CutsPairs(Protocol):
    """What cuts pairs of patches, such as `monai_ext.transforms.RandOverlapPatchPaird`."""

    def set_random_state(self, seed: int | None = None) -> object:
        """Begin to draw anew."""

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Cut two patches out of a scan."""


class PatchPairDataset(Dataset):
    """Pairs of patches cut at random out of scans that were read once.

    An epoch has ``pairs_per_scan`` pairs of each scan. What is drawn depends on seed, epoch and index alone, so neither
    the number of workers nor a restart changes a run. Scans lie in memory, or with ``cache_dir`` on disk, of which a
    patch reads only its own part: ten thousand scans need no more memory than one.

    An item is a list of two dicts, which MONAI's `list_data_collate` makes patches 2 i and 2 i + 1 of a batch:
    ``image`` (C, *patch) float32, ``affine`` (axes + 1, axes + 1) float64 from the patch's voxels to RAS mm, ``body``
    (1, *patch) and ``case``.

    Args:
        data: items with ``image`` and perhaps ``body`` paths, as `load_scan_list` gives them.
        reading: from an item of ``data`` to oriented and scaled `MetaTensor`, without anything random.
        pairs: cuts a pair out of a scan.
        transform: of a patch, perhaps random; a list is composed.
        pairs_per_scan: of an epoch.
        seed: of all that is drawn.
        cache_dir: folder for the scans; None keeps them in memory.

    Raises:
        InputError: a file cannot be read, there is none, or ``pairs_per_scan`` is less than 1.

    Example:
        >>> from monai.data import MetaTensor
        >>> class Cut:
        ...     def set_random_state(self, seed=None): pass
        ...     def __call__(self, scan): return [scan, scan]
        >>> dataset = PatchPairDataset([{"image": "a"}], lambda item: {"image": MetaTensor(torch.ones(1, 2, 2))}, Cut())
        >>> len(dataset), [patch["image"].shape for patch in dataset[0]]
        (1, [torch.Size([1, 2, 2]), torch.Size([1, 2, 2])])
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        reading: Callable,
        pairs: CutsPairs,
        transform: Callable | Sequence[Callable] | None = None,
        pairs_per_scan: int = 1,
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        if pairs_per_scan < 1:
            raise InputError(f"pairs_per_scan must be at least 1, got {pairs_per_scan}.")
        if not data:
            raise InputError("no scan to read; dataset_dir leads to an empty list.")
        self.data = list(data)
        self.pairs = pairs
        self.transform = Compose(transform) if isinstance(transform, Sequence) else transform
        self.pairs_per_scan = pairs_per_scan
        self.seed = seed
        # shared memory: workers that live on from epoch to epoch see the change
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        reading = Compose(reading) if isinstance(reading, Sequence) else reading
        self._scans = ScanStore(reading, cache_dir).prepare(self.data)

    def __len__(self) -> int:
        return len(self.data) * self.pairs_per_scan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, of which all draws are a function."""
        self._epoch[0] = epoch

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        index = range(len(self))[index]  # a negative index is the same pair, hence the same draw
        scan = index // self.pairs_per_scan
        for_pair, for_patches = self._seeds(index)
        case = self.data[scan].get("case", f"case-{scan}")
        self.pairs.set_random_state(seed=for_pair)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=for_patches)
        try:
            patches = self.pairs({**self._scans[scan].open(), "case": case})
            return [_plain(patch if self.transform is None else self.transform(patch)) for patch in patches]
        except Exception as error:
            raise find_input_error(error) or error from None

    def _seeds(self, index: int) -> tuple[int, int]:
        first, second = np.random.SeedSequence([self.seed, int(self._epoch), index]).generate_state(2)
        return int(first), int(second)


def _plain(patch: dict[str, Any]) -> dict[str, Any]:
    """Strip MONAI's bookkeeping, which would slow down every operation of the network."""
    return {key: _bare(value) if isinstance(value, Tensor) else value for key, value in patch.items()}


def _bare(value: Tensor) -> Tensor:
    return (value.as_tensor() if hasattr(value, "as_tensor") else value).contiguous()
