# SPDX-License-Identifier: Apache-2.0
"""ClassBalancedAttention against its formula; a small class counts as much as a large one."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.networks.blocks.class_balanced_attention import ClassBalancedAttention, class_means

DIM = 8


def build(classes: int = 3, moved: bool = True) -> ClassBalancedAttention:
    torch.manual_seed(0)
    block = ClassBalancedAttention(classes, DIM, num_heads=2, mlp_dim=16).double().eval()
    for weight in block.gate.parameters() if moved else ():
        nn.init.normal_(weight)
    return block


def given(batch: int = 2, classes: int = 3, side: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(batch, DIM, side, side), (batch, classes, side, side), (batch, classes, DIM)]
    embedding, prior, tokens = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return embedding, prior * 3, tokens


def naive(block: ClassBalancedAttention, embedding: Tensor, prior: Tensor, tokens: Tensor) -> Tensor:
    """Image by image and pixel by pixel, with torch's own attention."""
    result = torch.zeros_like(embedding)
    for b in range(len(embedding)):
        likely = torch.softmax(prior[b], dim=0)
        means = [(embedding[b] * p).sum(dim=(1, 2)) / p.sum() for p in likely]
        rows = block.norm_rows(tokens[b] + torch.stack(means))
        rows = block.norm_first(rows + attention(block.first_attention, rows))
        rows = rows + attention(block.second_attention, rows)
        rows = block.norm_second(rows + block.mlp(rows))
        for y in range(embedding.shape[2]):
            for x in range(embedding.shape[3]):
                pixel = embedding[b, :, y, x]
                number = sum(a * (row @ pixel) / DIM**0.5 for a, row in zip(block.gate.weight[0], rows, strict=True))
                result[b, :, y, x] = pixel * 2 * torch.sigmoid(number + block.gate.bias[0])
    return result


def attention(ours: nn.Module, rows: Tensor) -> Tensor:
    theirs = nn.MultiheadAttention(DIM, 2, batch_first=True).double()
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    return theirs(rows[None], rows[None], rows[None])[0][0]


@pytest.mark.parametrize("classes", [2, 3, 13])
def test_it_is_the_formula(classes: int) -> None:
    block, parts = build(classes), given(classes=classes)
    # the prior's softmax is taken in single precision
    torch.testing.assert_close(block(*parts), naive(block, *parts), atol=1e-5, rtol=1e-5)


def test_untrained_it_leaves_the_embedding_exactly_as_it_is() -> None:
    parts = given()
    assert torch.equal(build(moved=False)(*parts), parts[0])


def test_a_class_of_one_pixel_has_that_pixel_as_its_mean() -> None:
    pixels = given(batch=1)[0].flatten(2)
    prior = torch.zeros(1, 2, 16)
    prior[:, 0], prior[:, 1, 5] = 30.0, 60.0  # class 1 is at pixel 5, class 0 everywhere else
    means = class_means(pixels, prior)
    torch.testing.assert_close(means[0, 1], pixels[0, :, 5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(means[0, 0], pixels[0][:, torch.arange(16) != 5].mean(dim=1), atol=1e-5, rtol=1e-5)


def test_more_background_does_not_change_the_mean_of_an_object() -> None:
    pixels, prior = (part.flatten(2) for part in given(batch=1)[:2])
    more, elsewhere = torch.randn(1, DIM, 500).double(), torch.zeros(1, 3, 500).double()
    elsewhere[:, 0] = 100.0
    found = class_means(torch.cat([pixels, more], dim=2), torch.cat([prior, elsewhere], dim=2))
    torch.testing.assert_close(found[:, 1:], class_means(pixels, prior)[:, 1:], atol=1e-5, rtol=1e-5)


def test_a_class_that_is_nowhere_likely_stays_finite_and_so_does_its_gradient() -> None:
    block, (embedding, prior, tokens) = build(), given()
    prior[:, 1] = -1e4
    prior.requires_grad_()
    block(embedding, prior, tokens).sum().backward()
    assert prior.grad is not None
    assert prior.grad.isfinite().all()


def test_the_order_of_pixels_does_not_matter() -> None:
    block, (embedding, prior, tokens) = build(), given()
    turned = block(embedding.rot90(1, (2, 3)), prior.rot90(1, (2, 3)), tokens)
    torch.testing.assert_close(turned, block(embedding, prior, tokens).rot90(1, (2, 3)), atol=1e-6, rtol=1e-6)
