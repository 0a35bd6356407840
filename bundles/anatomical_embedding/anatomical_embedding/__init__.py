# SPDX-License-Identifier: Apache-2.0
"""The network of self-supervised anatomical embedding."""

from anatomical_embedding.embeddings import Embeddings
from anatomical_embedding.network import AnatomicalEmbeddingNet

__all__ = ["AnatomicalEmbeddingNet", "Embeddings"]
