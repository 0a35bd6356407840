# SPDX-License-Identifier: Apache-2.0
"""A block in which classes look at pixels and pixels at classes, both through a mask."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from monai_ext.networks.blocks.mask_cross_attention import MaskCrossAttention


class MaskTwoWayBlock(nn.Module):
    """Classes look at the pixels of their mask, at each other, and pixels at their classes.

    A block of the second transformer of H-SAM (Cheng et al. 2024, https://arxiv.org/abs/2403.18271): that of Segment
    Anything, with the mask in both cross attentions, that of the classes first, and without fewer channels in them.

    Args:
        dim: channels.
        num_heads: attention heads.
        mlp_dim: hidden channels of the two-layer perceptron.
        dropout: of the weights with which classes look at pixels, in training.

    Shape:
        tokens and token_pe (B, K, dim), pixels and pixel_pe (B, L, dim), mask (B, K, L), 0 to 1 -> tokens and pixels

    Example:
        >>> import torch
        >>> tokens, pixels, mask = torch.rand(1, 3, 8), torch.rand(1, 16, 8), torch.rand(1, 3, 16)
        >>> new_tokens, new_pixels = MaskTwoWayBlock(8, 2, 16)(tokens, pixels, tokens, pixels, mask)
        >>> new_tokens.shape, new_pixels.shape
        (torch.Size([1, 3, 8]), torch.Size([1, 16, 8]))
    """

    def __init__(self, dim: int = 256, num_heads: int = 8, mlp_dim: int = 2048, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens_to_pixels = MaskCrossAttention(dim, num_heads, dropout)
        self.norm_cross = nn.LayerNorm(dim)
        self.between_tokens = MaskCrossAttention(dim, num_heads)
        self.norm_self = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        self.norm_mlp = nn.LayerNorm(dim)
        self.pixels_to_tokens = MaskCrossAttention(dim, num_heads)
        self.norm_pixels = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, pixels: Tensor, token_pe: Tensor, pixel_pe: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        query, key = tokens + token_pe, pixels + pixel_pe
        tokens = self.norm_cross(tokens + self.tokens_to_pixels(query, key, pixels, mask))
        query = tokens + token_pe
        tokens = self.norm_self(tokens + self.between_tokens(query, query, tokens))
        tokens = self.norm_mlp(tokens + self.mlp(tokens))
        query = tokens + token_pe
        pixels = self.norm_pixels(pixels + self.pixels_to_tokens(key, query, tokens, mask.transpose(1, 2)))
        return tokens, pixels
