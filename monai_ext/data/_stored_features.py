# SPDX-License-Identifier: Apache-2.0
"""Features of a data set's slices from files on the disk."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monai_ext.data._sizes import size_text
from monai_ext.data.embedding_plan import EmbeddingPlan
from monai_ext.data.embedding_reader import EmbeddingReader
from monai_ext.data.epoch_sampler import process_place
from monai_ext.data.packed_features import read_features
from monai_ext.data.slice_store import StoredVolume
from monai_ext.data.volume_embeddings import VolumeEmbeddings

logger = logging.getLogger(__name__)

OPEN_FILES = 64  # per process; each costs a map, and a process has about a thousand file handles
NAME = 32  # letters of a file's name


class StoredFeatures:
    """Features (F, g, g) of slices, computed by `prepare` where they are not there, read by any number of workers.

    Workers see what the main process has prepared, whenever they were started: the names of the files lie in shared
    memory. They have no network. Each slice is compared with its checksum when it is read for the first time.

    Args:
        embeddings: of which network, kept where.
        volumes: whose slices are meant.
        cases: name of each volume.
        index: (volume, slice) of each item.
    """

    def __init__(
        self,
        embeddings: VolumeEmbeddings,
        volumes: Sequence[StoredVolume],
        cases: Sequence[str],
        index: Sequence[tuple[int, int]],
    ) -> None:
        embeddings.encoder.require_frozen()
        self._embeddings: VolumeEmbeddings | None = embeddings
        self._volumes = volumes
        self._cases = cases
        self._index = index
        self._maps = list(embeddings.encoder.shapes)
        self._folder = embeddings.store.folder
        self._prepared = ""
        self._names = torch.zeros(len(volumes), NAME, dtype=torch.uint8).share_memory_()
        self._checked = torch.zeros(len(index), dtype=torch.bool).share_memory_()
        self._readers: OrderedDict[str, EmbeddingReader] = OrderedDict()

    def prepare(self) -> None:
        """Have the embeddings of the encoder as it is now on the disk; quick if they are.

        Raises:
            InputError: the encoder is trained, or no room is left.
        """
        if self._embeddings is None:
            return
        encoder = self._embeddings.encoder.hash()
        if self._prepared == encoder:
            return
        self._embeddings.encoder.require_frozen()
        self._names.zero_()  # from here on those of another encoder are no longer read
        plan = EmbeddingPlan(self._embeddings, self._volumes, self._cases)
        if process_place()[0] == 0:
            _tell(plan)
        plan.check_room()
        plan.carry_out()
        names = "".join(self._embeddings.store.path(key).stem for key in plan.keys)
        self._checked.zero_()
        self._names.copy_(torch.frombuffer(bytearray(names, "ascii"), dtype=torch.uint8).view(-1, NAME))
        self._prepared = encoder

    def is_ready(self) -> bool:
        """Say whether the main process has prepared them."""
        return bool(self._names[0, 0])

    def __getitem__(self, index: int) -> Tensor:
        volume, position = self._index[index]
        reader = self._reader(bytes(self._names[volume].tolist()).decode("ascii"))
        reader.check = not bool(self._checked[index])
        features = read_features(reader, position, self._maps)
        self._checked[index] = True
        return features

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_embeddings": None, "_volumes": (), "_readers": OrderedDict()}

    def _reader(self, name: str) -> EmbeddingReader:
        reader = self._readers.pop(name, None) or EmbeddingReader(self._folder / f"{name}.safetensors")
        self._readers[name] = reader
        if len(self._readers) > OPEN_FILES:
            self._readers.popitem(last=False)
        return reader


def _tell(plan: EmbeddingPlan) -> None:
    store, missing = plan.embeddings.store, len(plan.missing)
    logger.info(
        "%s: embeddings of %d of %d volumes are there; %s",
        store.folder,
        len(set(plan.keys)) - missing,
        len(set(plan.keys)),
        f"computing {plan.missing_slices} slices of {missing} volumes, {size_text(plan.missing_bytes)} in "
        f"{str(store.dtype).removeprefix('torch.')}"
        if missing
        else f"{plan.slices} slices, nothing to compute",
    )
    for change in plan.changes():
        logger.warning("%s: %s.", store.folder, change)
