# SPDX-License-Identifier: Apache-2.0
"""What a network must offer so that its encoder's work can be done beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class _HasFeatures(Protocol):
    @property
    def features(self) -> Tensor: ...


@runtime_checkable
class EmbeddingNetwork(Protocol):
    """A network whose encoder can be run once per slice, and whose decoder works from what it gave.

    Example:
        >>> import torch.nn as nn
        >>> isinstance(nn.Conv2d(1, 1, 1), EmbeddingNetwork)
        False
    """

    @property
    def embedding_shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Name -> shape (C, g, g) of each map that the encoder makes of a slice, in the order of `embed`."""

    @property
    def encoder_settings(self) -> Mapping[str, object]:
        """Whatever embeddings depend on besides weights: image size, statistics of the pixels, which maps are kept."""

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether training leaves what embeddings depend on as it is."""

    def encoder_state(self) -> dict[str, Tensor]:
        """Return all weights that embeddings depend on, by name."""

    def embed(self, image: Tensor) -> _HasFeatures:
        """Run the encoder on (B, C, H, W); ``features`` of the result are all maps (B, F, g, g), one behind another."""

    def embedded(self, features: Tensor, image: Tensor) -> Any:
        """Return what `embed` would, from its features (B, F, g, g) and images of which only the size counts."""
