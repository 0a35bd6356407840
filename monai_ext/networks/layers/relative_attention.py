# SPDX-License-Identifier: Apache-2.0
"""Attention with decomposed relative positions, in pieces: no matrix of all queries by all keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 2**20  # logits held at a time: they stay in the cache of a processor, and matrix products are still large


def relative_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend over grids with relative positions of rows and columns (Li et al. 2022, https://arxiv.org/abs/2112.01526).

    The logit of the query at (y, x) and the key at (Y, X) is ``q . k / sqrt(D) + q . rows[y, Y] + q . columns[x, X]``.
    The logits of a few queries are computed at a time, into memory that is used again, and computed anew in the
    backward pass. Meant for processors without an accelerator, where fresh memory costs as much as arithmetic.

    Args:
        query: (N, h, w, D), contiguous, the upper left part of the key's grid.
        key: (N, H * W, D), contiguous.
        value: as the key.
        rows: (h, H, D) for each pair of rows.
        columns: (w, W, D) for each pair of columns.

    Returns:
        (N, h, w, D)

    Example:
        >>> query, key = torch.rand(6, 2, 3, 8), torch.rand(6, 4 * 3, 8)
        >>> relative_attention(query, key, key, torch.rand(2, 4, 8), torch.rand(3, 3, 8)).shape
        torch.Size([6, 2, 3, 8])
    """
    with torch.autocast(query.device.type, enabled=False):  # the dtype of the query decides
        return _RelativeAttention.apply(query, key, value, rows, columns)


class _RelativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        out = torch.empty_like(query)
        flat = out.flatten(1, 2)
        for pairs, places, probabilities in _pieces(query, key, rows, columns):
            torch.bmm(probabilities, value[pairs], out=flat[pairs, places])
        ctx.save_for_backward(query, key, value, rows, columns, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, rows, columns, out = ctx.saved_tensors
        queries, grads = query.flatten(1, 2), grad.contiguous().flatten(1, 2)
        scale = query.shape[-1] ** -0.5
        shared = (grads * out.flatten(1, 2)).sum(dim=-1, keepdim=True)  # what the softmax takes from each logit
        d_query, d_key, d_value = (torch.zeros_like(x) for x in (queries, key, value))
        d_rows = query.new_empty(*queries.shape[:2], rows.shape[1])
        d_columns = query.new_empty(*queries.shape[:2], columns.shape[1])
        for pairs, places, probabilities in _pieces(query, key, rows, columns):
            piece = grads[pairs, places]
            d_value[pairs].baddbmm_(probabilities.transpose(1, 2), piece)
            d_logits = torch.bmm(piece, value[pairs].transpose(1, 2))
            d_logits.sub_(shared[pairs, places]).mul_(probabilities)
            d_key[pairs].baddbmm_(d_logits.transpose(1, 2), queries[pairs, places], alpha=scale)
            d_query[pairs, places].baddbmm_(d_logits, key[pairs], alpha=scale)
            d_grid = d_logits.unflatten(-1, (rows.shape[1], columns.shape[1]))
            torch.sum(d_grid, dim=-1, out=d_rows[pairs, places])
            torch.sum(d_grid, dim=-2, out=d_columns[pairs, places])
        d_rows, d_columns = (x.unflatten(1, query.shape[1:3]) for x in (d_rows, d_columns))
        d_query = d_query.view_as(query)
        d_query += torch.einsum("nyxk,ykd->nyxd", d_rows, rows)
        d_query += torch.einsum("nyxk,xkd->nyxd", d_columns, columns)
        return (
            d_query,
            d_key,
            d_value,
            torch.einsum("nyxk,nyxd->ykd", d_rows, query) if ctx.needs_input_grad[3] else None,
            torch.einsum("nyxk,nyxd->xkd", d_columns, query) if ctx.needs_input_grad[4] else None,
        )


def _pieces(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield slices of N and of the queries, and the probabilities (n, q, H * W) there, in memory used again."""
    bias_rows = torch.einsum("nyxd,ykd->nyxk", query, rows).flatten(1, 2)
    bias_columns = torch.einsum("nyxd,xkd->nyxk", query, columns).flatten(1, 2)
    queries = query.flatten(1, 2)
    count, length, dim = queries.shape
    keys = key.shape[1]
    step = min(length, max(1, PIECE // keys))
    group = max(1, PIECE // (step * keys))
    memory = query.new_empty(min(count, group) * step * keys)
    for first in range(0, count, group):
        pairs = slice(first, min(first + group, count))
        for top in range(0, length, step):
            places = slice(top, min(top + step, length))
            shape = (pairs.stop - pairs.start, places.stop - places.start, keys)
            logits = memory[: shape[0] * shape[1] * shape[2]].view(shape)
            grid = logits.unflatten(-1, (rows.shape[1], columns.shape[1]))
            torch.add(bias_rows[pairs, places, :, None], bias_columns[pairs, places, None, :], out=grid)
            torch.baddbmm(logits, queries[pairs, places], key[pairs].transpose(1, 2), alpha=dim**-0.5, out=logits)
            yield pairs, places, torch.softmax(logits, dim=-1, out=logits)
