# SPDX-License-Identifier: Apache-2.0
"""Embeddings of a volume that were computed earlier, for a network that only has to decode them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_ext.data.embedding_network import EmbeddingNetwork
from monai_ext.data.embedding_reader import EmbeddingReader
from monai_ext.data.slices import upright
from monai_ext.data.volume_embeddings import VolumeEmbeddings

PRECISIONS = ("float32", "float16")  # the one that loses nothing first


class StoredEmbeddings:
    """Embeddings of one volume, each compared with its checksum when it is read.

    Args:
        network: that made them.
        embeddings: where they are kept.
        reader: of this volume.
    """

    def __init__(self, network: EmbeddingNetwork, embeddings: VolumeEmbeddings, reader: EmbeddingReader) -> None:
        self._network = network
        self._embeddings = embeddings
        self._reader = reader

    def of(self, indices: Sequence[int], batch: Tensor) -> Any:
        """Return what ``network.embed(batch)`` would, for the slices (n, C, H, W) of these indices."""
        features = self._embeddings.features(self._reader, indices)
        return self._network.embedded(features.to(batch.device, torch.float32), batch)


def find_stored(
    network: nn.Module, slices: Tensor, is_volume: bool, folder: str | Path | None, **settings: Any
) -> StoredEmbeddings | None:
    """Look for embeddings of a volume.

    Args:
        network: with its weights as they are now.
        slices: of the volume, (N, C, H, W), not yet upright.
        is_volume: whether they have to be turned upright.
        folder: where to look; nothing is ever written.
        settings: ``plane``, ``slice_context`` and ``amp``.

    Returns:
        None if there is no folder, the network cannot work from embeddings, or these are not there.
    """
    if folder is None or not Path(folder).is_dir() or not isinstance(network, EmbeddingNetwork):
        return None
    stack = upright(slices, is_volume).to("cpu", torch.float32).contiguous()
    kept = [VolumeEmbeddings(network, folder, precision=precision, **settings) for precision in PRECISIONS]
    key = kept[0].key(stack)
    found = next((embeddings for embeddings in kept if embeddings.has(key)), None)
    return None if found is None else StoredEmbeddings(network, found, found.reader(key, check=True))
