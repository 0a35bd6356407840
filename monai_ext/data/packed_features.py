# SPDX-License-Identifier: Apache-2.0
"""The maps of a slice as one tensor, as networks take them, and apart, as the store keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from monai_ext.data.embedding_reader import EmbeddingReader


def split_features(features: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Take packed features (F, g, g) of a slice apart into views, in the order of ``shapes``.

    Example:
        >>> maps = split_features(torch.rand(5, 2, 2), {"b": (3, 2, 2), "a": (2, 2, 2)})
        >>> maps["b"].shape
        torch.Size([3, 2, 2])
    """
    parts = features.split([shape[0] for shape in shapes.values()])
    return dict(zip(shapes, parts, strict=True))


def read_features(
    reader: EmbeddingReader, index: int | Sequence[int], names: Sequence[str], dtype: torch.dtype | None = None
) -> Tensor:
    """Read slices as packed features.

    Args:
        reader: of the volume.
        index: of one slice, or of several.
        names: of the maps, in the order in which the network lays them one behind another.
        dtype: wanted type, None for that of the file.

    Returns:
        (F, g, g) for one slice, (n, F, g, g) for several.
    """
    with torch.autocast("cpu", enabled=False):  # which knows no float16
        if not isinstance(index, int):
            return torch.stack([read_features(reader, i, names, dtype) for i in index])
        maps = reader.read(index, names, dtype)
        return torch.cat([maps[name] for name in names])
