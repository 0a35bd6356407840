# SPDX-License-Identifier: Apache-2.0
"""Attention in pieces against the formula, and its gradients against numerical ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ext.networks.layers import relative_attention as module
from monai_ext.networks.layers.relative_attention import relative_attention

# height and width of the queries, then of the keys: whole grid, queries in a corner of it, one row, one place
GRIDS = [((3, 4), (3, 4)), ((2, 3), (4, 5)), ((1, 4), (3, 4)), ((1, 1), (1, 1))]


def draw(queries: tuple[int, int], keys: tuple[int, int], count: int = 5, dim: int = 3) -> list[Tensor]:
    """Random query, key, value, rows and columns."""
    shapes = [
        (count, *queries, dim),
        (count, keys[0] * keys[1], dim),
        (count, keys[0] * keys[1], dim),
        (queries[0], keys[0], dim),
        (queries[1], keys[1], dim),
    ]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def formula(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    keys = key.unflatten(1, (rows.shape[1], columns.shape[1]))
    logits = torch.einsum("nyxd,nYXd->nyxYX", query, keys) / query.shape[-1] ** 0.5
    logits = logits + torch.einsum("nyxd,yYd->nyxY", query, rows)[..., None]
    logits = logits + torch.einsum("nyxd,xXd->nyxX", query, columns)[..., None, :]
    return logits.flatten(3).softmax(dim=-1) @ value[:, None]


@pytest.fixture(params=[1, 7, 30, 2**20])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of one query, of a few that do not divide all, of several heads, and of everything."""
    monkeypatch.setattr(module, "PIECE", request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize(("queries", "keys"), GRIDS)
def test_pieces_give_the_formula(queries: tuple[int, int], keys: tuple[int, int]) -> None:
    inputs = draw(queries, keys)
    torch.testing.assert_close(relative_attention(*inputs), formula(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize(("queries", "keys"), GRIDS)
def test_gradients_are_numerical_ones(queries: tuple[int, int], keys: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(relative_attention, draw(queries, keys, count=2, dim=2))


def test_frozen_tables_get_no_gradient() -> None:
    query, key, value, rows, columns = draw((2, 3), (2, 3))
    rows.requires_grad_(False)
    relative_attention(query, key, value, rows, columns).sum().backward()
    assert (rows.grad, columns.grad is not None) == (None, True)


def test_large_logits_stay_finite() -> None:
    query, key, value, rows, columns = draw((2, 2), (2, 2))
    result = relative_attention(query * 1e3, key * 1e3, value, rows, columns)
    torch.testing.assert_close(result, formula(query * 1e3, key * 1e3, value, rows, columns))


def test_memory_does_not_grow_with_queries_times_keys() -> None:
    side, dim = 48, 4
    query, key, value = torch.randn(3, 2, side * side, dim).unbind(0)
    tables = torch.randn(2, side, side, dim).unbind(0)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        relative_attention(query.unflatten(1, (side, side)), key, value, *tables)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 4 * module.PIECE < 4 * 2 * side**4
