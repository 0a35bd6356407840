# SPDX-License-Identifier: Apache-2.0
"""Self-supervised anatomical embedding; the network is shared with the bundle that registers by it."""

from __future__ import annotations

from monai_ext.networks.nets.anatomical_embedding_net import AnatomicalEmbeddingNet
from monai_ext.networks.nets.embeddings import Embeddings

__all__ = ["AnatomicalEmbeddingNet", "Embeddings"]
