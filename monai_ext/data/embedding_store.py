# SPDX-License-Identifier: Apache-2.0
"""Embeddings of whole volumes, computed once by a frozen encoder and kept on disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from io import FileIO
from math import prod
from pathlib import Path

import torch

from monai_ext.data._embedding_file import DTYPES, EmbeddingEntry, EmbeddingLayout, damages, read_entry, read_layout
from monai_ext.data._file_lock import locked, try_lock
from monai_ext.data.embedding_key import EmbeddingKey
from monai_ext.data.embedding_reader import EmbeddingReader
from monai_ext.data.embedding_writer import EmbeddingWriter, make_ready, part_of
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)


class EmbeddingStore:
    """A folder of embeddings, one safetensors file per volume, found by what they were made of.

    The name of a file is a hash of the image, its preprocessing, the encoder, the plane and the precision: whatever
    changes leads to another file, and nothing outdated is ever used. Several processes may write at the same time.

    Args:
        folder: of the files; it is made when first written to.
        size_budget: bytes that the folder may take, None for as much as the disk holds.
        dtype: ``torch.float16`` or ``torch.float32``.

    Raises:
        InputError: another dtype, or a budget that is not positive.

    Example:
        >>> store = EmbeddingStore("embeddings")  # doctest: +SKIP
        >>> writer = store.begin(key, {"neck": (256, 64, 64)}, slices=30)  # doctest: +SKIP
        >>> if writer is not None:  # else they are there, or another process is at it  # doctest: +SKIP
        ...     with writer:
        ...         for index in writer.missing:
        ...             writer.put(index, {"neck": encoder(pixels[index])})
        >>> store.reader(key)[0]["neck"].dtype  # doctest: +SKIP
        torch.float32
    """

    def __init__(self, folder: str | Path, size_budget: int | None = None, dtype: torch.dtype = torch.float16) -> None:
        if dtype not in DTYPES.values():
            raise InputError(f"embeddings are stored in {' or '.join(DTYPES)}, got {dtype}.")
        if size_budget is not None and size_budget < 1:
            raise InputError(f"size_budget must be a positive number of bytes or None, got {size_budget}.")
        self.folder = Path(folder).expanduser().absolute()
        self.size_budget = size_budget
        self.dtype = dtype

    def estimate(self, shapes: Mapping[str, Sequence[int]], slices: int) -> int:
        """Return the bytes that so many slices will take, but for some hundred of header per volume.

        Example:
            >>> EmbeddingStore("embeddings").estimate({"neck": (256, 64, 64)}, slices=1)
            2097160
        """
        return slices * sum(8 + self.dtype.itemsize * prod(shape) for shape in shapes.values())

    def path(self, key: EmbeddingKey) -> Path:
        """Return where the embeddings are or would be."""
        return self.folder / f"{key.digest(self._precision)}.safetensors"

    def __contains__(self, key: EmbeddingKey) -> bool:
        """Say whether the embeddings are there and their file is neither cut off nor another one."""
        path = self.path(key)
        if not path.exists():
            return False
        try:
            return read_layout(path).key == key
        except InputError as error:
            logger.warning("%s", error)
            return False

    def begin(
        self,
        key: EmbeddingKey,
        shapes: Mapping[str, Sequence[int]],
        slices: int,
        notes: Mapping[str, str] | None = None,
    ) -> EmbeddingWriter | None:
        """Begin to write the embeddings of a volume, or go on where a killed process stopped.

        Args:
            key: of what they are made.
            shapes: name of each tensor and its shape in one slice.
            slices: of the volume.
            notes: texts to be kept with them, such as the encoder's name; they are no part of the key.

        Returns:
            None if they are there already or another process is writing them: the first one wins.

        Raises:
            InputError: they would go beyond ``size_budget`` or what the disk has left.
        """
        path = self.path(key)
        layout = EmbeddingLayout(key, shapes, slices, self._precision, notes)
        with self._alone():
            if key in self:
                return None
            self._check_room(layout.size, part_of(path), key.case or path.name)
            file = _open(part_of(path))
            if not try_lock(file):
                file.close()
                return None
            make_ready(file, path, layout)  # while alone: the next one who looks has to see the room it takes
        return EmbeddingWriter(path, file, layout, self._alone)

    def reader(self, key: EmbeddingKey, check: bool = False) -> EmbeddingReader:
        """Return a reader of the embeddings; ``check`` compares what is read with its checksum.

        Raises:
            InputError: they are not there; says what has changed if others of this case are.
        """
        if key not in self:
            changed = self.stale(key)
            others = f"; those there are of another {' and '.join(changed)}" if changed else ""
            raise InputError(f"{self.folder}: no embeddings of {key.case or 'this scan'}{others}; compute them first.")
        return EmbeddingReader(self.path(key), check)

    def entries(self) -> list[EmbeddingEntry]:
        """Return what is there, least recently used first; damaged files are left out with a warning."""
        return sorted(self._entries(), key=lambda entry: (entry.last_used, entry.path.name))

    def stale(self, key: EmbeddingKey, entries: Sequence[EmbeddingEntry] | None = None) -> tuple[str, ...]:
        """Say what has changed since embeddings of this case, or of the same image, were stored.

        Args:
            key: of what is wanted.
            entries: result of `entries`, to ask about many keys quickly.

        Returns:
            Some of ``image``, ``preprocessing``, ``encoder``, ``plane``, ``precision``: those in which the nearest
            entry differs. Empty if nothing has changed, or there is nothing to compare with.
        """
        found = self.entries() if entries is None else entries
        near = [e for e in found if e.key.image == key.image or (key.case and e.key.case == key.case)]
        return min((self._differences(key, entry) for entry in reversed(near)), key=len, default=())

    def verify(self, key: EmbeddingKey | None = None) -> list[str]:
        """Compare all files, or that of the key, with their checksums.

        Returns:
            One sentence for each damaged file, which names it, the slices and what to do; empty if all is well.
        """
        paths = self._files("*.safetensors") if key is None else [self.path(key)]
        return [damage for path in paths for damage in damages(path)]

    def size(self) -> int:
        """Return the bytes of all files; one that is still being written counts whole."""
        return sum(_size_of(path) for path in [*self._files("*.safetensors"), *self._files("*.part")])

    def prune(self, size: int) -> list[Path]:
        """Remove files until at most ``size`` bytes remain, and return which.

        First go parts that nobody is writing, then the least recently used; a part that is being written stays.
        """
        removed: list[Path] = []
        with self._alone():
            left = self.size()
            for path in [
                *self._files("*.part"),
                *sorted(self._files("*.safetensors"), key=lambda path: path.stat().st_mtime),
            ]:
                if left > size and (path.suffix != ".part" or _is_free(path)):
                    left -= _size_of(path)
                    path.unlink()
                    removed.append(path)
        return removed

    @property
    def _precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def _alone(self) -> AbstractContextManager[None]:
        return locked(self.folder / ".lock")

    def _files(self, pattern: str) -> list[Path]:
        return sorted(self.folder.glob(pattern))

    def _entries(self) -> Iterator[EmbeddingEntry]:
        for path in self._files("*.safetensors"):
            try:
                yield read_entry(path)
            except (InputError, FileNotFoundError) as error:
                logger.warning("%s", error)

    def _differences(self, key: EmbeddingKey, entry: EmbeddingEntry) -> tuple[str, ...]:
        names = ("image", "preprocessing", "encoder", "plane")
        changed = [name for name in names if getattr(entry.key, name) != getattr(key, name)]
        return (*changed, *(["precision"] if entry.precision != self._precision else []))

    def _check_room(self, wanted: int, part: Path, name: str) -> None:
        if self.size_budget is not None:  # looks at every file
            others = self.size() - _size_of(part)
            if others + wanted > self.size_budget:
                raise InputError(
                    f"{self.folder}: the embeddings of {name} take {_megabytes(wanted)}, and {_megabytes(others)} of "
                    f"size_budget {_megabytes(self.size_budget)} are used; raise it, or remove old ones (prune)."
                )
        free = shutil.disk_usage(self.folder).free + _allocated(part)
        if wanted > free:
            raise InputError(
                f"{self.folder}: the embeddings of {name} take {_megabytes(wanted)}, and the disk has "
                f"{_megabytes(free)} left; make room, or choose another folder."
            )


def _open(path: Path) -> FileIO:
    path.touch()
    return open(path, "r+b", buffering=0)


def _is_free(part: Path) -> bool:
    with open(part, "r+b", buffering=0) as file:
        return try_lock(file)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _allocated(path: Path) -> int:
    """Return the bytes on the disk, of which a file with holes has fewer than it is long."""
    return getattr(path.stat(), "st_blocks", 0) * 512 if path.exists() else 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
