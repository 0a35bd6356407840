# SPDX-License-Identifier: Apache-2.0
"""The file with one volume's embeddings: where each slice lies in it, and whether it is what was written.

It is a plain safetensors file: one tensor (slices, ...) per name, and ``checksums`` (slices, names). All of its header
is known before the first slice, so slices can be written in any order and by a process that takes over.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path

import torch

import monai_ext
from monai_ext.data.embedding_key import EmbeddingKey
from monai_ext.errors import InputError

FORMAT = "monai_ext.embeddings.1"
CHECKSUMS = "checksums"
DTYPES = {"float16": torch.float16, "float32": torch.float32}
_CODES = {"float16": "F16", "float32": "F32"}
_WRITTEN = 1 << 32  # added to every checksum, so that 0 says "not written"


@dataclass(frozen=True)
class EmbeddingEntry:
    """What the header of a file of embeddings says.

    Args:
        path: of the file.
        key: of what the embeddings were made.
        shapes: name of each tensor and its shape in one slice.
        slices: how many the volume has.
        precision: ``float16`` or ``float32``.
        version: of this package, which wrote it.
        notes: what the writer wanted to be remembered, such as the encoder's name.
        size: bytes of the file.
        last_used: seconds since 1970, when it was written or last opened by a reader.
    """

    path: Path
    key: EmbeddingKey
    shapes: dict[str, tuple[int, ...]]
    slices: int
    precision: str
    version: str
    notes: dict[str, str]
    size: int
    last_used: float


class EmbeddingLayout:
    """Where everything lies in a file of embeddings.

    Args:
        key: of what the embeddings are made.
        shapes: name of each tensor and its shape in one slice.
        slices: of the volume.
        precision: ``float16`` or ``float32``.
        notes: texts to be kept with the file.
        version: of the package that writes.

    Raises:
        ValueError: no tensor, no slice, an empty tensor or a name that is taken.
    """

    def __init__(
        self,
        key: EmbeddingKey,
        shapes: Mapping[str, Sequence[int]],
        slices: int,
        precision: str,
        notes: Mapping[str, str] | None = None,
        version: str = monai_ext.__version__,
    ) -> None:
        self.shapes = {name: tuple(int(n) for n in shapes[name]) for name in sorted(shapes)}
        if slices < 1 or not self.shapes or any(n < 1 for shape in self.shapes.values() for n in shape):
            raise ValueError(f"at least one slice and one value per tensor are wanted, got {slices} and {self.shapes}.")
        if {CHECKSUMS, "__metadata__"} & set(self.shapes):
            raise ValueError(f"a tensor cannot be called {CHECKSUMS!r} or '__metadata__', got {list(self.shapes)}.")
        self.key, self.slices, self.precision, self.version = key, slices, precision, version
        self.notes = dict(notes or {})
        self._bytes = {name: prod(shape) * DTYPES[precision].itemsize for name, shape in self.shapes.items()}
        self.header = self._header()
        self._seed = zlib.crc32(self.header)
        self._starts = self._find_starts()

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.slices * (8 * len(self.shapes) + sum(self._bytes.values()))

    def place(self, name: str, index: int) -> tuple[int, int]:
        """Return (position in the file, bytes) of a tensor of a slice."""
        return self._starts[name] + index * self._bytes[name], self._bytes[name]

    def row(self, index: int) -> tuple[int, int]:
        """Return (position in the file, bytes) of the checksums of a slice."""
        return len(self.header) + index * 8 * len(self.shapes), 8 * len(self.shapes)

    def checksum(self, content: bytes | memoryview) -> bytes:
        """Return the checksum of a tensor's bytes, which covers the header too."""
        return (zlib.crc32(content, self._seed) + _WRITTEN).to_bytes(8, "little")

    def is_whole(self, file: FileIO, index: int) -> bool:
        """Say whether the slice is in the file as it was written."""
        row = read_at(file, *self.row(index))
        if not any(row):
            return False
        return row == b"".join(self.checksum(read_at(file, *self.place(name, index))) for name in self.shapes)

    def _header(self) -> bytes:
        key = self.key
        metadata = {
            "format": FORMAT,
            "version": self.version,
            "image": key.image,
            "preprocessing": key.preprocessing,
            "encoder": key.encoder,
            "plane": key.plane,
            "case": key.case,
            "slices": str(self.slices),
            "precision": self.precision,
            "notes": json.dumps(self.notes, sort_keys=True),
        }
        content: dict[str, object] = {"__metadata__": metadata}
        sizes = {CHECKSUMS: 8 * len(self.shapes), **self._bytes}
        shapes: dict[str, tuple[int, ...]] = {CHECKSUMS: (len(self.shapes),), **self.shapes}
        end = 0
        for name, size in sizes.items():
            start, end = end, end + size * self.slices
            code = "I64" if name == CHECKSUMS else _CODES[self.precision]
            content[name] = {"dtype": code, "shape": [self.slices, *shapes[name]], "data_offsets": [start, end]}
        text = json.dumps(content).encode("ascii")
        text += b" " * (-(8 + len(text)) % 64)  # aligned values are read faster
        return len(text).to_bytes(8, "little") + text

    def _find_starts(self) -> dict[str, int]:
        starts, position = {}, self.row(self.slices)[0]
        for name, size in self._bytes.items():
            starts[name] = position
            position += size * self.slices
        return starts


def read_layout(path: Path) -> EmbeddingLayout:
    """Read the header of a file of embeddings.

    Raises:
        InputError: the file is missing, cut off, damaged or something else.
    """
    try:
        with open(path, "rb") as file:
            length = file.read(8)
            size = path.stat().st_size
            header = length + file.read(min(int.from_bytes(length, "little"), size))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); compute the embeddings anew.") from None
    try:
        layout = _parse(header)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is no file of embeddings, or its header is damaged; {REMEDY}") from None
    if layout.header != header:
        raise InputError(f"{path}: its header contradicts itself, so it is damaged; {REMEDY}")
    if layout.size != size:
        raise InputError(f"{path}: has {size} of {layout.size} bytes, so it was cut off or damaged; {REMEDY}")
    return layout


REMEDY = "delete it and compute the embeddings anew."


def read_entry(path: Path) -> EmbeddingEntry:
    """Return what the header says; errors as in `read_layout`."""
    layout, stat = read_layout(path), path.stat()
    return EmbeddingEntry(
        path=path,
        key=layout.key,
        shapes=layout.shapes,
        slices=layout.slices,
        precision=layout.precision,
        version=layout.version,
        notes=layout.notes,
        size=layout.size,
        last_used=stat.st_mtime,
    )


def damages(path: Path) -> list[str]:
    """Compare a file with its checksums and return one sentence for what is wrong; empty if nothing is."""
    try:
        layout = read_layout(path)
        with open(path, "rb", buffering=0) as file:
            bad = [index for index in range(layout.slices) if not layout.is_whole(file, index)]
    except InputError as error:
        return [str(error)]
    if not bad:
        return []
    what = f"slice{'s' if len(bad) > 1 else ''} {', '.join(map(str, bad))}" if len(bad) < layout.slices else ""
    return [f"{path}: {what or 'the header or every slice'} differs from what was written; {REMEDY}"]


def read_at(file: FileIO, position: int, size: int) -> bytes:
    """Read that many bytes, fewer only at the end of the file."""
    file.seek(position)
    pieces = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def write_at(file: FileIO, position: int, content: bytes | memoryview) -> None:
    """Write all of the content."""
    file.seek(position)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _parse(header: bytes) -> EmbeddingLayout:
    content = json.loads(header[8:])
    metadata = content.pop("__metadata__")
    if metadata["format"] != FORMAT:
        raise ValueError(metadata["format"])
    return EmbeddingLayout(
        EmbeddingKey(**{name: metadata[name] for name in ("image", "preprocessing", "encoder", "plane", "case")}),
        {name: value["shape"][1:] for name, value in content.items() if name != CHECKSUMS},
        int(metadata["slices"]),
        metadata["precision"],
        json.loads(metadata["notes"]),
        metadata["version"],
    )
