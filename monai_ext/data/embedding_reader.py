# SPDX-License-Identifier: Apache-2.0
"""Reading one volume's embeddings slice by slice, without the encoder and without loading the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from monai_ext.data._embedding_file import REMEDY, EmbeddingEntry, EmbeddingLayout, read_entry, read_layout
from monai_ext.errors import InputError


class EmbeddingReader:
    """The embeddings of one volume, slice by slice, for a data set with any number of workers.

    The file is mapped when first read, in each process for itself; only the slices asked for are read from the disk.
    Nothing but the file is needed: neither the encoder nor the store nor the bundle that wrote it.

    Args:
        path: of the file, of any name.
        check: compare each slice that is read with its checksum; some five times slower from a warm cache.

    Raises:
        InputError: when first read, if the file is missing, cut off or damaged.

    Example:
        >>> reader = EmbeddingReader("embeddings/0a1b.safetensors")  # doctest: +SKIP
        >>> reader[3]["neck"].shape  # doctest: +SKIP
        torch.Size([256, 64, 64])
    """

    def __init__(self, path: str | Path, check: bool = False) -> None:
        self.path = Path(path).absolute()
        self.check = check
        self._process: int | None = None
        self._file: Any = None
        self._layout: EmbeddingLayout | None = None

    @property
    def entry(self) -> EmbeddingEntry:
        """What the file says about itself: shapes, slices, plane, hashes, notes."""
        return read_entry(self.path)

    def __len__(self) -> int:
        return self._open().slices

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.read(index)

    def read(
        self, index: int, names: Sequence[str] | None = None, dtype: torch.dtype | None = torch.float32
    ) -> dict[str, Tensor]:
        """Return tensors of a slice, as copies that may be changed and outlive the reader.

        Args:
            index: of the slice; negative counts from the end.
            names: which tensors, all if None.
            dtype: wanted type, None for the one in the file.

        Raises:
            IndexError: there is no such slice.
            InputError: no tensor of that name, or the slice is damaged (with ``check``).
        """
        layout = self._open()
        index = range(layout.slices)[index]
        unknown = set(names or ()) - set(layout.shapes)
        if unknown:
            raise InputError(f"{self.path}: has no {sorted(unknown)}, but {list(layout.shapes)}; take one of these.")
        if self.check:
            self._compare(layout, index)
        wanted = layout.shapes if names is None else names
        stored = {name: self._file.get_slice(name)[index] for name in wanted}
        return {name: value.to(dtype or value.dtype, copy=True) for name, value in stored.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_file": None, "_layout": None}

    def _open(self) -> EmbeddingLayout:
        if self._layout is None or self._process != os.getpid():
            self._layout = read_layout(self.path)
            try:
                self._file = safe_open(self.path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError(f"{self.path}: cannot be read ({error}); {REMEDY}") from None
            self._process = os.getpid()
            _note_use(self.path)
        return self._layout

    def _compare(self, layout: EmbeddingLayout, index: int) -> None:
        with open(self.path, "rb", buffering=0) as file:
            if not layout.is_whole(file, index):
                raise InputError(f"{self.path}: slice {index} differs from what was written; {REMEDY}")


def _note_use(path: Path) -> None:
    """Set the time of change: that of access is no measure, since every look at the header may set it, or nothing."""
    with suppress(OSError):  # somebody else's files may be read as well
        os.utime(path)
