# SPDX-License-Identifier: Apache-2.0
"""Hierarchical attention over what several experts make of the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sized

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class HLAttention(nn.Module):
    r"""Fuses signals of several levels, from fine to broad: each level's signal queries what the levels below made.

    HL-Attn of SAMora. With the signals :math:`E_{im}, E_{pa}, E_{pi}` of an image, a patch and a pixel expert

    .. math::
        Z = \mathrm{CrAttn}(E_{pa}, E_{pi}), \qquad E_\Omega = \mathrm{CrAttn}(E_{im}, Z), \qquad
        \mathrm{CrAttn}(H, L) = \mathrm{softmax}(Q_H K_L^T / \sqrt{d_k})\, V_L

    with matrices of their own for each level, and nothing else: no bias, no norm, no further projection. Two signals
    have one level. One has nothing to be fused with: do without this block.

    ::

        pixel ─ key, value ─┐
        patch ─ query ──────┴─ Z ─ key, value ─┐
        image ─ query ─────────────────────────┴─ fused

    The last level's values start at zero, and so does the result: it can be added to the tokens of a frozen network
    without changing them. In the first step only these values have a gradient, from the second on all weights. The
    matrix of all queries by all keys is never held.

    Args:
        dim: channels of the signals.
        num_heads: attention heads; 1 is the formula by the letter.
        num_signals: how many signals are fused, at least 2.
        qk_dim: channels of queries and keys of all heads together, at most ``dim``; None means ``dim``. Values keep
            ``dim`` channels.
        norm: normalise both inputs of each level (layer norm). Not the result, which would not be zero for long.
        out_proj: a further projection after each level's heads, without bias.
        residual: add the query signal to what each level returns. Then the result is not zero at the start.
        window_size: side of the windows to attend in, cut from the upper left corner; those at the right and lower
            edge are smaller, without padding. 0 attends over the whole map.
        zero_init: let the last level's values start at zero; False leaves them random as all others.

    Shape:
        signals, finest first, each (B, H, W, dim) -> (B, H, W, dim). They may come from a generator: each is asked for
        when its turn comes, and none is held longer than needed.

    Raises:
        ValueError: a size that does not fit; or, in forward, another number of signals.

    Example:
        >>> image, patch, pixel = torch.rand(3, 2, 4, 4, 8)
        >>> HLAttention(dim=8, num_heads=2)([pixel, patch, image]).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
        >>> sum(weight.numel() for weight in HLAttention(dim=8, num_heads=2).parameters()) == 6 * 8**2
        True
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_signals: int = 3,
        qk_dim: int | None = None,
        norm: bool = False,
        out_proj: bool = False,
        residual: bool = False,
        window_size: int = 0,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        qk_dim = dim if qk_dim is None else qk_dim
        _check_sizes(dim, num_heads, num_signals, qk_dim, window_size)
        self.levels = nn.ModuleList(
            _Level(dim, num_heads, qk_dim, norm, out_proj, residual, window_size) for _ in range(num_signals - 1)
        )
        if zero_init:
            nn.init.zeros_(self.levels[-1].value.weight)  # type: ignore[union-attr, arg-type]

    def forward(self, signals: Iterable[Tensor]) -> Tensor:
        if isinstance(signals, Sized) and len(signals) != len(self.levels) + 1:
            raise ValueError(f"signals must be {len(self.levels) + 1} maps, finest first, got {len(signals)}.")
        given = iter(signals)
        fused = next(given)
        for level in self.levels:
            fused = level(next(given), fused)
        return fused


class _Level(nn.Module):
    """One cross attention: a higher signal queries a lower one."""

    def __init__(
        self, dim: int, num_heads: int, qk_dim: int, norm: bool, out_proj: bool, residual: bool, window_size: int
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.residual = residual
        self.window_size = window_size
        self.scale = (qk_dim // num_heads) ** -0.5
        self.missing = (dim - qk_dim) // num_heads  # channels that a head of queries has fewer than one of values
        self.norm_high = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()
        self.norm_low = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()
        self.query = nn.Linear(dim, qk_dim, bias=False)
        self.key = nn.Linear(dim, qk_dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False) if out_proj else nn.Identity()

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        given = self.norm_low(low)
        mixed = self.proj(self._attend(self.query(self.norm_high(high)), self.key(given), self.value(given)))
        return high + mixed if self.residual else mixed

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend over the map, or inside windows of up to four sizes (inner, right, lower, corner) -> (B, H, W, C)"""
        if not self.window_size:
            return self._attend_inside(query, key, value, query.shape[1], query.shape[2])
        height, width = int(query.shape[1]), int(query.shape[2])
        strips = []
        for top, bottom, h in _cuts(height, self.window_size):
            strip = []
            for left, right, w in _cuts(width, self.window_size):
                q, k, v = (x[:, top:bottom, left:right] for x in (query, key, value))
                strip.append(self._attend_inside(q, k, v, h, w))
            strips.append(torch.cat(strip, dim=2))
        return torch.cat(strips, dim=1)

    def _attend_inside(self, query: Tensor, key: Tensor, value: Tensor, h: int, w: int) -> Tensor:
        """Attend inside windows of h x w, which a map (B, H, W, C) consists of -> (B, H, W, C)"""
        q, k, v = (_windows(x, h, w, self.num_heads) for x in (query, key, value))
        if self.missing:  # torch would hold the whole matrix for heads of two sizes; zeros change no product
            q, k = F.pad(q, (0, self.missing)), F.pad(k, (0, self.missing))
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        rows, columns = query.shape[1] // h, query.shape[2] // w
        out = out.reshape(-1, rows, columns, self.num_heads, h, w, out.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(value.shape)


def _cuts(length: int, window: int) -> list[tuple[int, int, int]]:
    """Cut a side into a run of whole windows and one smaller rest: (start, end, window side)."""
    whole = length - length % window
    runs = [(0, whole, window), (whole, length, length - whole)]
    return [run for run in runs if run[0] < run[1]]


def _windows(grid: Tensor, h: int, w: int, heads: int) -> Tensor:
    """(B, rows * h, columns * w, C) -> (B * rows * columns, heads, h * w, C / heads)"""
    height, width, channels = grid.shape[1:]
    split = grid.reshape(-1, height // h, h, width // w, w, heads, channels // heads)
    return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, heads, h * w, channels // heads)


def _check_sizes(dim: int, num_heads: int, num_signals: int, qk_dim: int, window_size: int) -> None:
    if num_signals < 2:
        raise ValueError(f"num_signals must be at least 2, got {num_signals}; a single signal needs no fusion.")
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"num_heads must divide dim = {dim}, got {num_heads}.")
    if not 0 < qk_dim <= dim or qk_dim % num_heads:
        fitting = [n for n in range(1, dim + 1) if dim % n == 0 and qk_dim > 0 and qk_dim % n == 0]
        remedy = f"; num_heads {fitting[-1]} would do" if fitting and qk_dim <= dim else ""
        raise ValueError(
            f"qk_dim must be at most {dim} and a multiple of num_heads = {num_heads}, got {qk_dim}{remedy}."
        )
    if window_size < 0:
        raise ValueError(f"window_size must be at least 0, got {window_size}.")
