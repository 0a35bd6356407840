# SPDX-License-Identifier: Apache-2.0
"""Writing one volume's embeddings slice by slice, so that a killed process loses one slice at most."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from monai_ext.data._embedding_file import DTYPES, EmbeddingLayout, read_at, write_at
from monai_ext.data._file_lock import unlock
from monai_ext.errors import InputError


class EmbeddingWriter:
    """Takes the tensors of each slice, in any order; `EmbeddingStore.begin` makes it.

    As a context it gives the file its final name once all slices are there. After an error, or a kill at any moment,
    what was put stays in a ``.part`` beside it, and the next writer of the same key goes on with `missing`. Slices that
    do not match their checksum count as missing, so not even a power cut is a danger. For one thread.

    Args:
        path: final name of the file.
        file: the open, locked ``.part``, which `make_ready` has seen.
        layout: of the file.
        publishing: a lock around the change of names.
    """

    def __init__(
        self,
        path: Path,
        file: FileIO,
        layout: EmbeddingLayout,
        publishing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.path = path
        self._file = file
        self._layout = layout
        self._publishing = publishing
        self._room: dict[str, Tensor] = {}
        self._done = {index for index in range(layout.slices) if layout.is_whole(file, index)}

    @property
    def missing(self) -> list[int]:
        """Slices that are still to be put."""
        return [index for index in range(self._layout.slices) if index not in self._done]

    def put(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of a slice.

        Args:
            index: of the slice.
            tensors: of exactly the names and shapes that were announced, on any device, in any float type.

        Raises:
            IndexError: there is no such slice.
            ValueError: other names or shapes than announced.
            InputError: a value is not finite or beyond what the precision can hold, or the disk is full. Nothing is
                cut to fit: a feature that large is a sign that float32 is wanted.
        """
        if not 0 <= index < self._layout.slices:
            raise IndexError(f"slice must be in [0, {self._layout.slices - 1}], got {index}.")
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        if shapes != self._layout.shapes:
            raise ValueError(f"tensors must be {self._layout.shapes}, got {shapes}.")
        contents = {name: self._bytes_of(index, name, tensors[name]) for name in self._layout.shapes}
        self._done.discard(index)
        try:
            for name, content in contents.items():
                write_at(self._file, self._layout.place(name, index)[0], content)
            # last: without it the slice counts as missing
            checksums = b"".join(self._layout.checksum(content) for content in contents.values())
            write_at(self._file, self._layout.row(index)[0], checksums)
        except OSError as error:
            raise _as_input_error(error, self.path, self._layout.size) from None
        self._done.add(index)

    def finish(self) -> Path:
        """Give the file its final name, on disk for good, and return it.

        Raises:
            ValueError: slices are missing.
        """
        if self.missing:
            raise ValueError(f"{self.path.name}: slices {self.missing[:5]} were not put, of {self._layout.slices}.")
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _as_input_error(error, self.path, self._layout.size) from None
        with self._publishing():
            self.close()
            os.replace(part_of(self.path), self.path)
        return self.path

    def close(self) -> None:
        """Let go of the ``.part``, for this or another process to go on with."""
        if not self._file.closed:
            unlock(self._file)
            self._file.close()

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    def _bytes_of(self, index: int, name: str, value: Tensor) -> memoryview:
        if name not in self._room:
            # the same for all slices: fresh memory for each costs several times as much as the conversion into it
            self._room[name] = torch.empty(self._layout.shapes[name], dtype=DTYPES[self._layout.precision])
        stored = self._room[name].copy_(value.detach())
        low, high = torch.aminmax(stored)  # either is NaN if any value is
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise InputError(self._complaint(index, name, value))
        return stored.reshape(-1).view(torch.uint8).numpy().data

    def _complaint(self, index: int, name: str, value: Tensor) -> str:
        where = f"{self._layout.key.case or self.path.name}: {name!r} of slice {index}"
        if not bool(torch.isfinite(value).all()):
            return f"{where} has values that are NaN or infinite; look at the scan and the encoder's weights."
        return (
            f"{where} has values up to {float(value.abs().max()):.6g}, beyond what {self._layout.precision} can hold "
            f"({torch.finfo(DTYPES[self._layout.precision]).max:.6g}); store the embeddings in float32."
        )


def part_of(path: Path) -> Path:
    """Return the name that a file has while it is written."""
    return path.with_name(path.name + ".part")


def make_ready(file: FileIO, path: Path, layout: EmbeddingLayout) -> None:
    """Leave a file that another writer of the same content began as it is; make any other an empty one."""
    if os.fstat(file.fileno()).st_size == layout.size and read_at(file, 0, len(layout.header)) == layout.header:
        return
    try:
        file.truncate(0)
        file.truncate(layout.size)  # the whole size at once, for others to count; holes need no room on the disk yet
        write_at(file, 0, layout.header)
    except OSError as error:
        file.close()
        raise _as_input_error(error, path, layout.size) from None


def _as_input_error(error: OSError, path: Path, size: int) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return InputError(
        f"{path}: the disk is full, {size / 1e6:.1f} MB are wanted in all; make room and start again, "
        "what was written so far is kept."
    )
