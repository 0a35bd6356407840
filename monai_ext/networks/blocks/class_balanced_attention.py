# SPDX-License-Identifier: Apache-2.0
"""Self-attention between classes, which says where an image embedding matters."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.blocks.mask_cross_attention import MaskCrossAttention


class ClassBalancedAttention(nn.Module):
    r"""Strengthens and weakens the pixels of an embedding by what its classes, large and small, tell each other.

    After the class-balanced, mask-guided self-attention of H-SAM (Cheng et al. 2024,
    https://arxiv.org/abs/2403.18271). A first prediction gives each class its row: the class's token and the mean of
    the pixels where it is likely. The mean is taken over each class's own pixels, so that a class of ten pixels speaks
    as loudly as the background, and no label is needed for it. The rows attend to each other, and each pixel
    :math:`x_p` is compared with each row :math:`r_c`:

    .. math::
        x_p' = x_p \cdot 2\,\sigma\Bigl(b + \sum_c a_c\, \langle r_c, x_p \rangle / \sqrt{C}\Bigr)

    In the published code a row has an entry for each pixel, which ties the weights to one image size, and a softmax
    over a single number makes all factors one. Here rows have the embedding's channels. The weights :math:`a` and
    :math:`b` start at zero: at the start the embedding stays exactly as it is.

    Args:
        num_masks: number of classes, background among them.
        dim: channels C of the embedding and the tokens.
        num_heads: attention heads.
        mlp_dim: hidden channels of the two-layer perceptron.

    Shape:
        embedding (B, dim, g, g), prior (B, num_masks, g, g), logits of the classes, tokens (B, num_masks, dim) ->
        (B, dim, g, g); g is free.

    Example:
        >>> import torch
        >>> embedding, prior, tokens = torch.rand(2, 8, 4, 4), torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8)
        >>> block = ClassBalancedAttention(num_masks=3, dim=8, num_heads=2)
        >>> torch.equal(block(embedding, prior, tokens), embedding)
        True
    """

    def __init__(self, num_masks: int, dim: int = 256, num_heads: int = 8, mlp_dim: int = 2048) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.norm_rows = nn.LayerNorm(dim)
        self.first_attention = MaskCrossAttention(dim, num_heads)
        self.norm_first = nn.LayerNorm(dim)
        self.second_attention = MaskCrossAttention(dim, num_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        self.norm_second = nn.LayerNorm(dim)
        self.gate = nn.Linear(num_masks, 1)
        nn.init.zeros_(self.gate.weight)  # an untrained block must not change the embedding
        nn.init.zeros_(self.gate.bias)

    def forward(self, embedding: Tensor, prior: Tensor, tokens: Tensor) -> Tensor:
        pixels = embedding.flatten(2)  # (B, C, L)
        rows = self.norm_rows(tokens + class_means(pixels, prior.flatten(2)))  # (B, K, C)
        rows = self.norm_first(rows + self.first_attention(rows, rows, rows))
        rows = rows + self.second_attention(rows, rows, rows)
        rows = self.norm_second(rows + self.mlp(rows))
        likeness = (rows * self.scale) @ pixels  # (B, K, C) @ (B, C, L) -> (B, K, L)
        factor = 2 * self.gate(likeness.transpose(1, 2)).sigmoid()  # (B, L, 1)
        return embedding * factor.transpose(1, 2).unflatten(2, embedding.shape[2:])


def class_means(pixels: Tensor, prior: Tensor) -> Tensor:
    """Average pixels (B, C, L) over where each class of the logits (B, K, L) is likely -> (B, K, C)

    Every class's weights add up to one, those of a class that is nowhere likely, too: they are the shares of its
    probability, taken without dividing by a number near zero.
    """
    shares = F.log_softmax(prior.float(), dim=1).softmax(dim=2)
    return shares.to(pixels.dtype) @ pixels.transpose(1, 2)
