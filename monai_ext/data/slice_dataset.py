# SPDX-License-Identifier: Apache-2.0
"""The slices of many volumes as one data set of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from monai_ext.data.slice_store import SliceStore, StoredVolume
from monai_ext.data.slices import check_plane, context_indices
from monai_ext.errors import InputError, find_input_error


class SliceDataset(Dataset):
    """Slices of volumes, and pictures, for training a 2-D network.

    Each scan is read once; random transforms work on single slices. What they draw depends on seed, epoch and
    index alone, so neither the number of workers nor a restart changes a run.

    An item is a dict of ``image`` (C * (2 * slice_context + 1), H, W) float32, where the channels of the slice
    below come first, ``label`` (1, H, W) float32 class indices (if the scan has one), ``case``, ``slice`` and, if
    known, ``subject`` and ``site``. Slices are upright, as a screen shows them.

    Args:
        data: items with ``image`` and perhaps ``label`` paths, as `load_datalist` gives them.
        reading: from an item of ``data`` to tensors (C, X, Y, Z) in RAS or (C, X, Y), without anything random.
        transform: of a slice, perhaps random; a list is composed.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        slice_context: how many neighbours on each side are given as further channels; the border is repeated.
        empty_slices: share of the slices without any object that is kept; those with one always are. Of a scan without
            a label those are empty that are of one value all over.
        seed: of the choice of empty slices and of the random transforms.
        cache_dir: folder for the slices; None keeps volumes in memory and reads pictures anew each time.
        slice_share: share of the slices that are left which is drawn, at least one, for few-shot experiments that
            count slices (`load_few_shot`).

    Raises:
        InputError: if a file cannot be read or no slice remains.

    Example:
        >>> from monai_ext.transforms import LoadScand
        >>> SliceDataset(load_datalist("/data/hearts", "training"), LoadScand(["image", "label"]))  # doctest: +SKIP
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        reading: Callable,
        transform: Callable | Sequence[Callable] | None = None,
        plane: str = "axial",
        slice_context: int = 0,
        empty_slices: float = 1.0,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        slice_share: float = 1.0,
    ) -> None:
        check_plane(plane)
        if slice_context < 0:
            raise InputError(f"slice_context must be 0 or more, got {slice_context}.")
        if not 0 <= empty_slices <= 1:
            raise InputError(f"empty_slices must be in [0, 1], got {empty_slices}.")
        if not 0 < slice_share <= 1:
            raise InputError(f"slice_share must be above 0 and at most 1, got {slice_share}.")
        if not data:
            raise InputError("no scan to read; dataset_dir leads to an empty list.")
        self.data = list(data)
        self.transform = Compose(transform) if isinstance(transform, Sequence) else transform
        self.slice_context = slice_context
        self.seed = seed
        # shared memory: workers that live on from epoch to epoch see the change
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        reading = Compose(reading) if isinstance(reading, Sequence) else reading
        self._volumes = SliceStore(reading, plane, cache_dir, need_labels=empty_slices < 1).prepare(self.data)
        self._index = _draw(_choose(self._volumes, empty_slices, seed), slice_share, seed)

    def __len__(self) -> int:
        return len(self._index)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, of which the random transforms' draws are a function."""
        self._epoch[0] = epoch

    def slices_by_case(self) -> dict[str, list[int]]:
        """Return the positions of the slices of each case that are in the set, for the record of a run."""
        found: dict[str, list[int]] = {}
        for volume, position in self._index:
            found.setdefault(self._case(volume), []).append(position)
        return found

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # a negative index is the same slice, hence the same draw
        volume, position = self._index[index]
        item = self._read(volume, position)
        if self.transform is None:
            return item
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=self._seed(index))
        try:
            return _plain(self.transform(item))
        except Exception as error:
            raise find_input_error(error) or error from None

    def _read(self, volume: int, position: int) -> dict[str, Any]:
        image, label = self._volumes[volume].open()
        near = context_indices(position, len(image), self.slice_context)
        item: dict[str, Any] = {"image": torch.from_numpy(np.concatenate([image[i] for i in near]))}
        if label is not None:
            item["label"] = torch.from_numpy(label[position].astype(np.float32))
        known: dict[str, Any] = {key: self.data[volume][key] for key in ("subject", "site") if key in self.data[volume]}
        return {**item, "case": self._case(volume), "slice": position, **known}

    def _case(self, volume: int) -> str:
        return str(self.data[volume].get("case", f"case-{volume}"))

    def _seed(self, index: int) -> int:
        return int(np.random.SeedSequence([self.seed, int(self._epoch), index]).generate_state(1)[0])


def _choose(volumes: list[StoredVolume], empty_slices: float, seed: int) -> list[tuple[int, int]]:
    every = [(v, int(s)) for v, volume in enumerate(volumes) for s in range(len(volume.foreground))]
    empty = [(v, s) for v, s in every if not volumes[v].foreground[s]]
    order = np.random.default_rng(seed).permutation(len(empty))
    dropped = {empty[i] for i in order[round(len(empty) * empty_slices) :]}
    kept = [place for place in every if place not in dropped]
    if not kept:
        raise InputError(
            f"no slice remains of {len(every)}: no label shows an object, or no scan anything, and empty_slices is "
            f"{empty_slices}; raise empty_slices or look at the files."
        )
    return kept


def _draw(places: list[tuple[int, int]], share: float, seed: int) -> list[tuple[int, int]]:
    if share == 1:
        return places
    count = max(1, round(len(places) * share))
    # a stream of its own: the choice of empty slices is drawn with the seed itself
    order = np.random.default_rng([seed, 1]).permutation(len(places))
    return [places[index] for index in sorted(order[:count])]


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """Strip MONAI's bookkeeping, which would slow down every operation of the network."""
    return {key: _contiguous(value) if isinstance(value, Tensor) else value for key, value in item.items()}


def _contiguous(value: Tensor) -> Tensor:
    plain = value.as_tensor() if hasattr(value, "as_tensor") else value
    return plain.contiguous()
