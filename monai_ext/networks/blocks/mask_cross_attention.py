# SPDX-License-Identifier: Apache-2.0
"""Attention whose weights a mask scales."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor


class MaskCrossAttention(nn.Module):
    r"""Multi-head attention whose weights are multiplied by a mask, after the softmax.

    The cross attention of H-SAM's second stage (Cheng et al. 2024, https://arxiv.org/abs/2403.18271): a first
    prediction says how much each class and each pixel have to do with each other. With the mask :math:`M` between 0
    and 1

    .. math:: \mathrm{Attn}(Q, K, V) = \bigl(M \odot \mathrm{softmax}(Q K^T / \sqrt{d})\bigr)\, V

    in each head. The weights then no longer add up to one: what the mask knows nothing of, answers little. The mask
    has a gradient. Without one this is plain multi-head attention. The matrix of weights is held: one of its sides
    should be short.

    Args:
        dim: channels of queries, keys, values and the result.
        num_heads: attention heads, a divisor of ``dim``.
        dropout: probability of a weight to be left out in training.

    Shape:
        query (B, N, dim), key and value (B, M, dim), mask (B, N, M) -> (B, N, dim)

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``.

    Example:
        >>> import torch
        >>> classes, pixels = torch.rand(1, 3, 8), torch.rand(1, 16, 8)
        >>> attention = MaskCrossAttention(dim=8, num_heads=2)
        >>> attention(classes, pixels, pixels, mask=torch.rand(1, 3, 16)).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, dim: int, num_heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide dim = {dim}, got {num_heads}.")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        weights = (q * self.scale @ k.transpose(2, 3)).softmax(dim=-1)  # (B, heads, N, M)
        if mask is not None:
            weights = weights * mask[:, None]
        mixed = self.dropout(weights) @ v  # (B, heads, N, dim / heads)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, rows: Tensor) -> Tensor:
        """(B, N, dim) -> (B, heads, N, dim / heads)"""
        return rows.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
