# SPDX-License-Identifier: Apache-2.0
"""The network of self-supervised anatomical embedding."""

from anatomical_embedding.network import AnatomicalEmbeddingNet, Embeddings

__all__ = ["AnatomicalEmbeddingNet", "Embeddings"]
