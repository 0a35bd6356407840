# SPDX-License-Identifier: Apache-2.0
"""Attention of Segment Anything's image encoder without work on padding, in little memory."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention as PublishedAttention
from torch import Tensor

from monai_ext.networks.layers.recording import is_recorded
from monai_ext.networks.layers.relative_attention import relative_attention

BANDS = 8  # of queries at most, one after the other, where the graph is recorded: each more is a copy of the graph
BAND = 2**17  # logits of a head below which another band would save no memory worth its copy


class SAMAttention(nn.Module):
    """Drop-in for Segment Anything's attention and its windows, with the same parameters and the same result.

    Segment Anything (https://arxiv.org/abs/2304.02643) pads the grid to whole windows *before* the projection of
    query, key and value. Padded tokens are zeros, so they are projected to the bias: we project the real tokens only,
    pad afterwards and drop the padded queries. Nowhere are there logits of all queries by all keys at a time: on a
    CPU see `relative_attention`; where the graph is recorded (trace, export, compile) and on other devices, a few
    bands of queries go through torch's own attention.

    Args:
        attention: the published attention, whose parts are taken over (not copied).
        window_size: side of the windows; 0 attends over the whole grid.

    Shape:
        (B, H, W, C) -> (B, H, W, C)

    Raises:
        ValueError: the published attention was built without relative positions.

    Example:
        >>> published = PublishedAttention(dim=8, num_heads=2, use_rel_pos=True, input_size=(4, 4))
        >>> SAMAttention(published, window_size=4)(torch.rand(1, 6, 6, 8)).shape
        torch.Size([1, 6, 6, 8])
    """

    def __init__(self, attention: PublishedAttention, window_size: int = 0) -> None:
        super().__init__()
        if not attention.use_rel_pos:
            raise ValueError("SAMAttention needs use_rel_pos=True, as all published encoders have it, got False.")
        self.num_heads = int(attention.num_heads)
        self.window_size = int(window_size)
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.rel_pos_h = attention.rel_pos_h
        self.rel_pos_w = attention.rel_pos_w

    def forward(self, tokens: Tensor) -> Tensor:
        height, width, channels = tokens.shape[1:]
        size = (self.window_size or height, self.window_size or width)
        padded = bool(height % size[0] or width % size[1])
        padding = self.qkv(tokens.new_zeros(1, 1, 1, channels)) if padded else None
        rows, columns = _offsets(self.rel_pos_h, size[0]), _offsets(self.rel_pos_w, size[1])
        recorded = is_recorded()
        attend = self._attend if tokens.device.type == "cpu" and not recorded else self._attend_recorded
        return self.proj(attend(self.qkv(tokens), padding, rows, columns))  # unnamed here, so that it can be let go

    def _attend(self, qkv: Tensor, padding: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
        """Attend inside windows of up to four sizes (inner, right edge, lower edge, corner) -> (B, H, W, C)"""
        rows, columns = rows.to(qkv.dtype), columns.to(qkv.dtype)
        across, down = (_spans(length, len(table)) for length, table in ((qkv.shape[2], columns), (qkv.shape[1], rows)))
        regions = [qkv[:, top:bottom, left:right] for top, bottom, _ in down for left, right, _ in across]
        del qkv  # it goes with the last region
        strips = []
        for _, _, height in down:
            strip = [
                self._attend_region(regions.pop(0), padding, (height, width), rows, columns) for _, _, width in across
            ]
            strips.append(_concatenate(strip, dim=2))
        return _concatenate(strips, dim=1)

    def _attend_region(
        self, qkv: Tensor, padding: Tensor | None, window: tuple[int, int], rows: Tensor, columns: Tensor
    ) -> Tensor:
        """Attend inside windows of one size, of which padding makes whole ones for the keys -> (B, h, w, C)"""
        (height, width), size, channels = window, (len(rows), len(columns)), qkv.shape[-1] // 3
        padding = None if padding is None else padding[..., channels:]
        pairs = _pad(qkv[..., channels:], padding, size[0] - height, size[1] - width)
        key, value = _split(pairs, size, (2, self.num_heads)).flatten(2, 3).unbind(0)
        query = _split(qkv[..., :channels], window, (1, self.num_heads))[0]
        counts = (qkv.shape[1] // height, qkv.shape[2] // width)
        del qkv, pairs  # only copies of its parts are needed from here on
        windows = relative_attention(query, key, value, rows[:height], columns[:width])
        return _join(windows, counts, self.num_heads)

    def _attend_recorded(self, qkv: Tensor, padding: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
        """Attend inside whole windows with torch's own attention, band by band -> (B, H, W, C)"""
        rows, columns = rows.to(qkv.dtype), columns.to(qkv.dtype)
        height, width, size = qkv.shape[1], qkv.shape[2], (rows.shape[0], columns.shape[0])
        grid = _pad(qkv, padding, -height % size[0], -width % size[1])
        windows = _split(grid, size, (3, self.num_heads))  # (3, N, h, w, D)
        query, key, value = windows[0], windows[1].flatten(1, 2)[:, None], windows[2].flatten(1, 2)[:, None]
        bands = []
        step = size[0] if self.window_size else _band(*size)
        for top in range(0, size[0], step):
            band = query[:, top : top + step]
            bias = _bias(band, rows[top : top + step], columns)
            out = F.scaled_dot_product_attention(band.flatten(1, 2)[:, None], key, value, attn_mask=bias[:, None])
            bands.append(out.reshape(band.shape))
        out = _join(_concatenate(bands, dim=1), (grid.shape[1] // size[0], grid.shape[2] // size[1]), self.num_heads)
        return out[:, :height, :width]


def _band(height: int, width: int) -> int:
    """Rows of queries that attend at a time: the whole grid if it is small, an eighth of it if it is large."""
    bands = min(BANDS, -(-((height * width) ** 2) // BAND))
    return -(-height // bands)


def _spans(length: int, window: int) -> list[tuple[int, int, int]]:
    """Cut a side into a run of whole windows and one smaller rest: (start, end, window side)."""
    whole = length // window * window
    spans = [(0, whole, window)] if whole else []
    return [*spans, (whole, length, length - whole)] if whole < length else spans


def _pad(grid: Tensor, padding: Tensor | None, below: int, right: int) -> Tensor:
    """Append rows and columns of the token ``padding`` (1, 1, 1, C) to a grid (B, H, W, C)."""
    if padding is not None and right:
        grid = torch.cat([grid, padding.expand(grid.shape[0], grid.shape[1], right, -1)], dim=2)
    if padding is not None and below:
        grid = torch.cat([grid, padding.expand(grid.shape[0], below, grid.shape[2], -1)], dim=1)
    return grid


def _split(grid: Tensor, size: tuple[int, int], parts: tuple[int, int]) -> Tensor:
    """Windows and heads of a grid (B, H, W, P * heads * D) -> (P, N, h, w, D), contiguous; N = B * windows * heads"""
    (height, width), dim = size, grid.shape[-1] // (parts[0] * parts[1])
    split = grid.reshape(-1, grid.shape[1] // height, height, grid.shape[2] // width, width, *parts, dim)
    split = split.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(parts[0], -1, height, width, dim)
    return split.contiguous()  # products in bfloat16 are three times slower on parts of longer rows


def _join(windows: Tensor, counts: tuple[int, int], heads: int) -> Tensor:
    """Put windows and heads (N, h, w, D) back into a grid (B, rows * h, columns * w, heads * D)."""
    (rows, columns), (height, width, dim) = counts, windows.shape[1:]
    grid = windows.reshape(-1, rows, columns, heads, height, width, dim).permute(0, 1, 4, 2, 5, 3, 6)
    return grid.reshape(-1, rows * height, columns * width, heads * dim)


def _concatenate(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def _bias(query: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Relative position bias of queries (N, h, w, D) -> (N, h * w, H * W)"""
    bias_rows = torch.einsum("nyxd,ykd->nyxk", query, rows)
    bias_columns = torch.einsum("nyxd,xkd->nyxk", query, columns)
    return (bias_rows[..., None] + bias_columns[..., None, :]).flatten(3).flatten(1, 2)


def _offsets(table: Tensor, side: int) -> Tensor:
    """Rows of a table of relative positions (2 * side - 1, D) for each query and key place -> (side, side, D)"""
    if table.shape[0] != 2 * side - 1:  # as published: a grid of another size than the table was made for
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None, :] + side - 1]
