# SPDX-License-Identifier: Apache-2.0
"""MaskCrossAttention against its formula, head by head, and torch's own attention where there is no mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.blocks.mask_cross_attention import MaskCrossAttention

DIM, HEADS = 12, 3


def build(dropout: float = 0.0) -> MaskCrossAttention:
    torch.manual_seed(0)
    return MaskCrossAttention(DIM, HEADS, dropout).double().eval()


def rows(batch: int = 2, classes: int = 3, pixels: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(batch, classes, DIM), (batch, pixels, DIM), (batch, pixels, DIM), (batch, classes, pixels)]
    query, key, value, mask = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return query, key, value, mask.sigmoid()


def naive(block: MaskCrossAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """The formula of the docstring, one image, head and query at a time."""
    size, result = DIM // HEADS, torch.zeros_like(query)
    for b in range(len(query)):
        q, k, v = block.query(query[b]), block.key(key[b]), block.value(value[b])
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            for n in range(query.shape[1]):
                weights = torch.softmax(k[:, part] @ q[n, part] / size**0.5, dim=0) * mask[b, n]
                result[b, n, part] = (weights[:, None] * v[:, part]).sum(dim=0)
    return block.proj(result)


def test_it_is_the_formula() -> None:
    block, given = build(), rows()
    torch.testing.assert_close(block(*given), naive(block, *given))


def test_without_a_mask_it_is_plain_attention() -> None:
    block, (query, key, value, _) = build(), rows()
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).double()
    parts = (block.query, block.key, block.value)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    theirs.out_proj.load_state_dict(block.proj.state_dict())
    torch.testing.assert_close(block(query, key, value), theirs(query, key, value)[0])


def test_pixels_outside_of_the_mask_change_nothing_but_the_rest_of_the_weights() -> None:
    block, (query, key, value, mask) = build(), rows()
    mask[:, :, 2] = 0
    changed = value.clone()
    changed[:, 2] += 100
    assert torch.equal(block(query, key, changed, mask), block(query, key, value, mask))


def test_an_empty_mask_leaves_the_bias_alone() -> None:
    block, (query, key, value, mask) = build(), rows()
    torch.testing.assert_close(block(query, key, value, mask * 0), block.proj.bias.expand_as(query))


def test_the_gradient_is_right_for_all_that_goes_in() -> None:
    given = [part.requires_grad_() for part in rows(batch=1, classes=2, pixels=3)]
    assert torch.autograd.gradcheck(build(), given)


def test_dropout_leaves_weights_out_in_training_only() -> None:
    block, given = build(dropout=0.5), rows()
    assert torch.equal(block(*given), build()(*given))
    assert not torch.equal(block.train()(*given), block(*given))


def test_heads_that_do_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match="num_heads must divide dim = 12, got 5"):
        MaskCrossAttention(DIM, 5)


def test_large_logits_stay_finite() -> None:
    block, (query, key, value, mask) = build(), rows()
    assert F.normalize(block(query * 1e4, key * 1e4, value, mask), dim=-1).isfinite().all()
