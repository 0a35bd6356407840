# SPDX-License-Identifier: Apache-2.0
"""The slices of many volumes as a frozen encoder sees them, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.nn as nn
from torch.utils.data import get_worker_info

from monai_ext.data._shared_features import SharedFeatures
from monai_ext.data._stored_features import StoredFeatures
from monai_ext.data.slice_dataset import SliceDataset
from monai_ext.data.volume_embeddings import VolumeEmbeddings
from monai_ext.errors import InputError

CACHES = ("none", "ram", "disk")


class EmbeddedSliceDataset(SliceDataset):
    """`SliceDataset` whose images may be embeddings, so that training needs no encoder and no image.

    With ``embedding_cache`` ``none`` items are those of `SliceDataset`, and ``embedded`` is False. Otherwise they come
    without ``image`` to ``transform``, whose random parts draw the same numbers; afterwards ``image`` is the packed
    features (F, g, g) of the slice in ``embedding_precision`` and ``embedded`` is True. Transforms of the image have to
    allow that it is missing, and none may move the label's pixels.

    Embeddings are made, or found, at the first `set_epoch` and not before: only when a run starts do handlers load the
    weights that count. If the encoder has changed at a later one, they are made anew. Workers, which ``set_epoch``
    precedes, only read; they have no network.

    Args:
        data: items with ``image`` and perhaps ``label`` paths, as `load_datalist` gives them.
        reading: from an item of ``data`` to tensors (C, X, Y, Z) in RAS or (C, X, Y), without anything random.
        transform: of a slice, perhaps random; a list is composed.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        slice_context: how many neighbours on each side are given, or encoded, as further channels.
        empty_slices: share of the slices without any object that is kept; those with one always are.
        seed: of the choice of empty slices and of the random transforms.
        cache_dir: folder for the slices; None keeps volumes in memory and reads pictures anew each time.
        network: an `EmbeddingNetwork` with a frozen encoder; not asked for with ``none``.
        embedding_cache: ``none``; ``ram``, shared memory, filled at the start of each run with the slices that are
            used; ``disk``, files in ``embedding_dir`` of whole volumes, which other runs find there.
        embedding_dir: folder of the embeddings, for ``disk``.
        embedding_precision: in which embeddings are kept, ``float16`` or ``float32``.
        size_budget: bytes that ``embedding_dir`` may take, None for as much as the disk holds.
        embedding_batch_size: slices per pass of the encoder.
        amp: run the encoder in mixed precision.

    Raises:
        InputError: if a file cannot be read, no slice remains, an argument is none of the above, the encoder is not
            frozen, or the embeddings do not fit into memory; later, if the disk has no room.

    Example:
        >>> reading = LoadScand(["image", "label"])  # doctest: +SKIP
        >>> dataset = EmbeddedSliceDataset(items, reading, network=network, embedding_cache="ram")  # doctest: +SKIP
        >>> dataset[0]["image"].shape, dataset[0]["label"].shape  # doctest: +SKIP
        (torch.Size([2560, 64, 64]), torch.Size([1, 200, 180]))
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
        network: nn.Module | None = None,
        embedding_cache: str = "none",
        embedding_dir: str | Path | None = None,
        embedding_precision: str = "float16",
        size_budget: int | None = None,
        embedding_batch_size: int = 4,
        amp: bool = False,
    ) -> None:
        if embedding_cache not in CACHES:
            raise InputError(f"embedding_cache must be one of {', '.join(CACHES)}, got {embedding_cache!r}.")
        embeddings: VolumeEmbeddings | None = None
        if embedding_cache != "none":  # before anything is read
            if network is None:
                raise InputError(f"embedding_cache {embedding_cache} needs the network; give it, or set none.")
            if embedding_cache == "disk" and embedding_dir is None:
                raise InputError("embedding_cache disk needs a folder; set embedding_dir.")
            embeddings = VolumeEmbeddings(
                network,
                embedding_dir or ".",
                plane,
                slice_context,
                batch_size=embedding_batch_size,
                precision=embedding_precision,
                size_budget=size_budget,
                amp=amp,
            )
            embeddings.encoder.require_frozen()
        super().__init__(data, reading, transform, plane, slice_context, empty_slices, seed, cache_dir)
        self._features: SharedFeatures | StoredFeatures | None = None
        cases = [item.get("case", f"case-{place}") for place, item in enumerate(self.data)]
        if embeddings is not None and embedding_cache == "disk":
            self._features = StoredFeatures(embeddings, self._volumes, cases, self._index)
        elif embeddings is not None:
            self._features = SharedFeatures(
                embeddings.encoder, self._volumes, cases, self._index, embeddings.store.dtype
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and have the embeddings of the encoder as it is now."""
        super().set_epoch(epoch)
        self.prepare()

    def prepare(self) -> None:
        """Have the embeddings of the encoder as it is now, computed if they are not there; in all processes at once.

        Raises:
            InputError: the encoder is trained, no room is left, or a value is beyond what the precision can hold.
        """
        if self._features is not None:
            self._features.prepare()

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        item = super().__getitem__(index)
        if self._features is None:
            return {**item, "embedded": False}
        if not self._features.is_ready() and get_worker_info() is None:
            self.prepare()
        if not self._features.is_ready():
            raise InputError(
                "embeddings have to be there before workers ask for them: call set_epoch() or prepare() of the data "
                "set before each loop over the data loader; MONAI's trainers do with monai_ext.data.EpochSampler."
            )
        return {**item, "image": self._features[index], "embedded": True}

    def _read(self, volume: int, position: int) -> dict[str, Any]:
        item = super()._read(volume, position)
        if self._features is not None:
            del item["image"]
        return item
