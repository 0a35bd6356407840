# SPDX-License-Identifier: Apache-2.0
"""What a network must offer so that the embeddings of whole volumes can be kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class VolumeEmbeddingNetwork(Protocol):
    """A network that gives embeddings ``local``, ``global`` and maybe ``semantic`` of a whole image.

    To be cut into tiles it needs ``halo`` too: name -> voxels, along each axis, around a block of whole cells on which
    the embeddings of these cells depend. An attribute ``padding_value`` says what image a volume is continued with
    behind its end, to whole global cells; without it that is 0.

    Example:
        >>> import torch.nn as nn
        >>> isinstance(nn.Conv3d(1, 1, 1), VolumeEmbeddingNetwork)
        False
    """

    @property
    def strides(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> voxels a cell of each embedding, along each axis."""

    @property
    def encoder_settings(self) -> Mapping[str, object]:
        """Whatever embeddings depend on besides the weights: scale of the pixels, padding, kind of normalisation."""
