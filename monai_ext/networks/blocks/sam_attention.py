# SPDX-License-Identifier: Apache-2.0
"""Attention of Segment Anything's image encoder that projects real tokens only."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention as PublishedAttention
from torch import Tensor


class SAMAttention(nn.Module):
    """Drop-in for Segment Anything's attention and its windows, with the same parameters and the same result.

    Segment Anything (https://arxiv.org/abs/2304.02643) pads the grid to whole windows *before* the projection of
    query, key and value. Padded tokens are zeros, so they are projected to the bias: we project the real tokens only
    and pad afterwards.

    Args:
        attention: the published attention, whose parts are taken over (not copied).
        window_size: side of the windows; 0 attends over the whole grid.

    Shape:
        (B, H, W, C) -> (B, H, W, C)

    Example:
        >>> published = PublishedAttention(dim=8, num_heads=2, use_rel_pos=True, input_size=(4, 4))
        >>> SAMAttention(published, window_size=4)(torch.rand(1, 6, 6, 8)).shape
        torch.Size([1, 6, 6, 8])
    """

    def __init__(self, attention: PublishedAttention, window_size: int = 0) -> None:
        super().__init__()
        self.num_heads = int(attention.num_heads)
        self.window_size = int(window_size)
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.use_rel_pos = bool(attention.use_rel_pos)
        if self.use_rel_pos:
            self.rel_pos_h = attention.rel_pos_h
            self.rel_pos_w = attention.rel_pos_w

    def forward(self, tokens: Tensor) -> Tensor:
        height, width, channels = tokens.shape[1:]
        qkv = self.qkv(tokens)  # (B, H, W, C) -> (B, H, W, 3 * C)
        size = self.window_size
        if size == 0:
            return self.proj(self._attend(qkv))
        padding = self.qkv(tokens.new_zeros(1, 1, 1, channels))
        qkv = _pad(qkv, padding, -height % size, -width % size)
        rows, columns = qkv.shape[1] // size, qkv.shape[2] // size
        windows = qkv.reshape(-1, rows, size, columns, size, 3 * channels).transpose(2, 3)
        windows = self._attend(windows.reshape(-1, size, size, 3 * channels))
        grid = windows.reshape(-1, rows, columns, size, size, channels).transpose(2, 3)
        grid = grid.reshape(-1, rows * size, columns * size, channels)
        return self.proj(grid[:, :height, :width])

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attend over whole grids: (N, H, W, 3 * C) -> (N, H, W, C)"""
        height, width, channels = qkv.shape[1:]
        query, key, value = qkv.reshape(-1, height * width, 3, self.num_heads, channels // 3 // self.num_heads).permute(
            2, 0, 3, 1, 4
        )
        bias = self._bias(query, height, width) if self.use_rel_pos else None
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return out.transpose(1, 2).reshape(-1, height, width, channels // 3)

    def _bias(self, query: Tensor, height: int, width: int) -> Tensor:
        """Relative position bias of queries (N, heads, H * W, D) -> (N, heads, H * W, H * W)"""
        grid = query.unflatten(2, (height, width))
        rows = torch.einsum("nhyxd,ykd->nhyxk", grid, _offsets(self.rel_pos_h, height))
        columns = torch.einsum("nhyxd,xkd->nhyxk", grid, _offsets(self.rel_pos_w, width))
        return (rows[..., None] + columns[..., None, :]).flatten(4, 5).flatten(2, 3)


def _pad(qkv: Tensor, padding: Tensor, below: int, right: int) -> Tensor:
    """Append rows and columns of the token ``padding`` (1, 1, 1, C) to a grid (B, H, W, C)."""
    if right:
        qkv = torch.cat([qkv, padding.expand(qkv.shape[0], qkv.shape[1], right, -1)], dim=2)
    if below:
        qkv = torch.cat([qkv, padding.expand(qkv.shape[0], below, qkv.shape[2], -1)], dim=1)
    return qkv


def _offsets(table: Tensor, side: int) -> Tensor:
    """Rows of a table of relative positions (2 * side - 1, D) for each query and key place -> (side, side, D)"""
    if table.shape[0] != 2 * side - 1:  # as published: a grid of another size than the table was made for
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None, :] + side - 1]
