# SPDX-License-Identifier: Apache-2.0
"""Embeddings of whole volumes in files, which are mapped into memory when they are wanted again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from monai_ext.data._embedding_file import DTYPES, read_entry
from monai_ext.data.embedding_key import EmbeddingKey
from monai_ext.data.embedding_store import EmbeddingStore
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)

HEADER = 4096  # more than the header of a file takes


class KeptVolumes:
    """A cache of volumes' embeddings: an `EmbeddingStore` in which each volume is a single slice.

    What cannot be kept is no error, since it can be computed again; a warning says why. Any number of processes may
    share the folder.

    Args:
        folder: of the files; it is made when first written to.
        size_budget: bytes that the folder may take; the least recently used files make room for new ones. None for as
            much as the disk holds.
        precision: ``float16`` or ``float32``.

    Raises:
        InputError: a budget that is not positive.
    """

    def __init__(self, folder: str | Path, size_budget: int | None, precision: str) -> None:
        self.store = EmbeddingStore(folder, size_budget, DTYPES[precision])

    def find(self, key: EmbeddingKey) -> dict[str, Tensor] | None:
        """Return what is kept, mapped into memory, or None; a damaged file is removed with a warning."""
        if key not in self.store:  # which warns if a file's header is damaged
            return None
        path = self.store.path(key)
        try:
            if damage := self.store.verify(key):
                logger.warning("%s This is done now.", damage[0])
                path.unlink(missing_ok=True)
                return None
            names = read_entry(path).shapes
            with safe_open(path, framework="pt") as file:
                maps = {name: file.get_tensor(name)[0] for name in names}
        except (InputError, SafetensorError, OSError):  # another process has removed it meanwhile
            return None
        with suppress(OSError):  # the folder may be somebody else's
            os.utime(path)  # what was used last is removed last
        return maps

    def keep(self, key: EmbeddingKey, maps: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """Write a file, unless another process has or does."""
        shapes = {name: tuple(x.shape) for name, x in maps.items()}
        try:
            self._make_room(self.store.estimate(shapes, 1) + HEADER)
            writer = self.store.begin(key, shapes, 1, notes)
            if writer is not None:
                with writer:
                    writer.put(0, maps)
        except (InputError, OSError) as error:
            logger.warning("embeddings are not kept: %s", error)

    def _make_room(self, wanted: int) -> None:
        budget = self.store.size_budget
        if budget is not None and wanted <= budget < self.store.size() + wanted:
            self.store.prune(budget - wanted)
