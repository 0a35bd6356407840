# SPDX-License-Identifier: Apache-2.0
"""Embeddings of a volume's slices: computed once by a network's encoder, found again by what they were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from monai_ext.data._embedding_file import DTYPES
from monai_ext.data.embedding_key import EmbeddingKey, hash_image, hash_preprocessing
from monai_ext.data.embedding_reader import EmbeddingReader
from monai_ext.data.embedding_store import EmbeddingStore
from monai_ext.data.embedding_writer import EmbeddingWriter
from monai_ext.data.packed_features import read_features, split_features
from monai_ext.data.slice_encoder import SliceEncoder
from monai_ext.data.slices import check_plane
from monai_ext.errors import InputError

VERSION = 1  # of the way from a stack of slices to the encoder's input; another number makes all embeddings anew


class VolumeEmbeddings:
    """What a network's encoder makes of volumes, in a folder.

    A volume is given as its upright slices (N, C, H, W) float32, as `monai_ext.data.slice_store` and the inferers see
    them. Its embeddings are found by the values of these slices, ``plane`` and ``slice_context``, the encoder's weights
    and settings, ``amp`` and ``precision``: if any of them changes, they are computed anew.

    Args:
        network: an `EmbeddingNetwork`.
        folder: of the files; it is made when first written to.
        plane: in which the slices lie.
        slice_context: number of neighbours on each side that the network takes as further channels.
        batch_size: slices per forward pass. The last digit of an embedding may depend on it, the name of its file not.
        precision: in which embeddings are kept, ``float16`` or ``float32``.
        size_budget: bytes that the folder may take, None for as much as the disk holds.
        amp: run the encoder in mixed precision.

    Raises:
        InputError: the network offers no embeddings, or an argument is out of range.

    Example:
        >>> embeddings = VolumeEmbeddings(network, "embeddings")  # doctest: +SKIP
        >>> key = embeddings.key(stack, case="heart-1")  # doctest: +SKIP
        >>> embeddings.compute(stack, key)  # doctest: +SKIP
        True
        >>> embeddings.features(embeddings.reader(key), 3).shape  # doctest: +SKIP
        torch.Size([2560, 64, 64])
    """

    def __init__(
        self,
        network: nn.Module,
        folder: str | Path,
        plane: str = "axial",
        slice_context: int = 0,
        batch_size: int = 4,
        precision: str = "float16",
        size_budget: int | None = None,
        amp: bool = False,
    ) -> None:
        check_plane(plane)
        check_precision(precision)
        self.encoder = SliceEncoder(network, slice_context, batch_size, amp)
        self.store = EmbeddingStore(folder, size_budget, DTYPES[precision])
        self.plane = plane

    def key(self, stack: Tensor, case: str = "") -> EmbeddingKey:
        """Return what the embeddings of a volume are found by; ``case`` is for messages only."""
        preprocessing = hash_preprocessing({"slice_context": self.encoder.slice_context, "version": VERSION})
        return EmbeddingKey(hash_image(stack), preprocessing, self.encoder.hash(), self.plane, case)

    def has(self, key: EmbeddingKey) -> bool:
        """Say whether the embeddings are there."""
        return key in self.store

    def reader(self, key: EmbeddingKey, check: bool = False) -> EmbeddingReader:
        """Return a reader of the embeddings; errors as in `EmbeddingStore.reader`."""
        return self.store.reader(key, check)

    def features(self, reader: EmbeddingReader, index: int | Sequence[int]) -> Tensor:
        """Return packed features (F, g, g) of a slice, or (n, F, g, g) of several, in the type of the file."""
        return read_features(reader, index, list(self.encoder.shapes))

    def estimate(self, slices: int) -> int:
        """Return the bytes that so many slices take."""
        return self.store.estimate(self.encoder.shapes, slices)

    def compute(self, stack: Tensor, key: EmbeddingKey, progress: Callable[[int], object] | None = None) -> bool:
        """Compute the embeddings of a volume unless they are there, going on where a killed process stopped.

        Args:
            stack: the slices.
            key: from `key`.
            progress: called with the number of slices that are done, again and again.

        Returns:
            Whether they are there now: False if another process is writing them.

        Raises:
            InputError: no room is left, or a value is beyond what the precision can hold.
        """
        writer = self.begin(key, len(stack))
        if writer is None:
            return self.has(key)
        with writer:
            self.fill(writer, stack, progress)
        return True

    def begin(self, key: EmbeddingKey, slices: int) -> EmbeddingWriter | None:
        """Return a writer for `fill`, None if the embeddings are there or another process is writing them."""
        notes = {"network": type(self.encoder.network).__name__}
        return self.store.begin(key, self.encoder.shapes, slices, notes)

    def fill(self, writer: EmbeddingWriter, stack: Tensor, progress: Callable[[int], object] | None = None) -> None:
        """Compute and write what the writer misses.

        Batches are always the same ones, whatever is missing: what a slice's embedding is, to the last bit, may depend
        on its batch, and a volume that was begun twice is to get the bytes of one begun once.
        """
        shapes, missing = self.encoder.shapes, set(writer.missing)
        for start in range(0, len(stack), self.encoder.batch_size):
            batch = range(start, min(start + self.encoder.batch_size, len(stack)))
            if missing.intersection(batch):
                for index, features in zip(batch, self.encoder.embed(stack, batch), strict=True):
                    if index in missing:
                        writer.put(index, split_features(features, shapes))
            if progress is not None:
                progress(len(batch))


def check_precision(precision: str) -> None:
    """Refuse a type that embeddings cannot be kept in."""
    if precision not in DTYPES:
        raise InputError(f"embedding_precision must be {' or '.join(DTYPES)}, got {precision!r}.")
