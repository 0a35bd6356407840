# SPDX-License-Identifier: Apache-2.0
"""Features of a data set's slices in memory that workers share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from monai_ext.data._share_out import together
from monai_ext.data._sizes import free_memory, size_text
from monai_ext.data.embedding_plan import stack_of
from monai_ext.data.epoch_sampler import process_place
from monai_ext.data.slice_encoder import SliceEncoder
from monai_ext.data.slice_store import StoredVolume
from monai_ext.errors import InputError


class SharedFeatures:
    """Features (F, g, g) of slices, computed by `prepare` in each process that trains, read by its workers.

    Args:
        encoder: of the network.
        volumes: whose slices are meant.
        cases: name of each volume.
        index: (volume, slice) of each item; slices of a volume follow one another.
        dtype: in which they are kept.

    Raises:
        InputError: the encoder is trained, or they take more memory than there is.
    """

    def __init__(
        self,
        encoder: SliceEncoder,
        volumes: Sequence[StoredVolume],
        cases: Sequence[str],
        index: Sequence[tuple[int, int]],
        dtype: torch.dtype = torch.float16,
    ) -> None:
        encoder.require_frozen()
        shapes = list(encoder.shapes.values())
        self._encoder: SliceEncoder | None = encoder
        self._volumes = volumes
        self._cases = cases
        self._index = index
        self._dtype = dtype
        self._shape = (len(index), sum(shape[0] for shape in shapes), *shapes[0][1:])
        self._prepared = ""
        self._values: Tensor | None = None
        self._check_memory()

    def prepare(self) -> None:
        """Compute them with the encoder as it is now; quick if that was done.

        Raises:
            InputError: the encoder is trained, or a value is beyond what the precision can hold.
        """
        if self._encoder is None:
            return
        encoder = self._encoder.hash()
        if self._prepared == encoder:
            return
        self._encoder.require_frozen()
        self._prepared = ""  # from here on those of another encoder are no longer read
        together(self._fill)
        self._prepared = encoder

    def is_ready(self) -> bool:
        """Say whether the main process has prepared them."""
        return bool(self._prepared)

    def __getitem__(self, index: int) -> Tensor:
        if self._values is None:
            raise IndexError(index)
        return self._values[index].clone()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoder": None, "_volumes": ()}

    def _fill(self) -> None:
        if self._values is None:
            self._values = torch.empty(self._shape, dtype=self._dtype).share_memory_()
        hidden = process_place()[0] > 0 or not sys.stderr.isatty()
        with tqdm(total=len(self._index), desc="embedding", unit="slice", disable=hidden) as bar:
            for volume, group in groupby(range(len(self._index)), key=lambda i: self._index[i][0]):
                self._fill_volume(volume, list(group), bar)

    def _fill_volume(self, volume: int, items: Sequence[int], bar: Any) -> None:
        if self._encoder is None or self._values is None:
            raise RuntimeError("workers compute nothing.")
        stack, size = stack_of(self._volumes[volume]), self._encoder.batch_size
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            features = self._encoder.embed(stack, [self._index[i][1] for i in batch]).to(self._dtype)
            if not bool(torch.isfinite(features).all()):
                raise InputError(
                    f"{self._cases[volume]}: an embedding has values that are no numbers or beyond what "
                    f"{str(self._dtype).removeprefix('torch.')} can hold; look at the scan, or set "
                    "embedding_precision to float32."
                )
            self._values[batch[0] : batch[-1] + 1] = features.cpu()
            bar.update(len(batch))

    def _check_memory(self) -> None:
        wanted = self._dtype.itemsize * torch.Size(self._shape).numel()
        free, processes = free_memory(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if free is not None and wanted * processes > free:
            each = f" in each of {processes} processes" if processes > 1 else ""
            raise InputError(
                f"embedding_cache ram: the embeddings of {self._shape[0]} slices take {size_text(wanted)}{each}, and "
                f"{size_text(free)} of shared memory are free; set embedding_cache to disk, where they take as much of "
                "the disk, or lower empty_slices."
            )
