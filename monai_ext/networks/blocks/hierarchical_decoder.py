# SPDX-License-Identifier: Apache-2.0
"""The second stage of a mask decoder: it goes on from the first one's masks, up to the image's own pixels."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor

from monai_ext.networks.blocks.class_balanced_attention import ClassBalancedAttention
from monai_ext.networks.blocks.hierarchical_pixel_decoder import HierarchicalPixelDecoder
from monai_ext.networks.blocks.mask_cross_attention import MaskCrossAttention
from monai_ext.networks.blocks.mask_two_way_block import MaskTwoWayBlock
from monai_ext.networks.blocks.paired_mask_decoder import DecodedMasks
from monai_ext.networks.layers.class_balanced_noise import ClassBalancedNoise

DEPTH = 2
FILTER_LAYERS = 5


class HierarchicalDecoder(nn.Module):
    """Second stage of H-SAM's decoder (Cheng et al. 2024, https://arxiv.org/abs/2403.18271).

    ::

        embedding ─ noise (training) ─ class-balanced attention ─┐
        first masks ─────────────────────┴─ softmax ─ mask ─┐    │
        tokens, one a class ────────────────────────────────┴─ two-way, twice ─┬─ filter of each class ─┐
        first features ────────────────────────────────────────────────────────┴─ pixel decoder ────────┴─ masks

    The first stage is Segment Anything's decoder, whose masks have a quarter of the image's resolution; these have all
    of it. No label goes in, and no weight depends on the size of the image. Our code; where it departs from the
    published one, the parts say so.

    Args:
        num_masks: number K of classes, background among them.
        dim: channels C of the embedding.
        num_heads: attention heads.
        mlp_dim: hidden channels of the perceptrons.
        noise: strength of the noise on the embedding in training, see `ClassBalancedNoise`.
        dropout: of the weights with which classes look at pixels, in training.

    Shape:
        embedding (B, C, g, g), image_pe (1, C, g, g), first, of K masks -> logits (B, K, 16g, 16g)

    Raises:
        ValueError: fewer than two classes, a negative noise, or sizes that do not divide.

    Example:
        >>> masks, tokens = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 32)
        >>> first = DecodedMasks(masks, tokens, features=torch.rand(2, 4, 8, 8))
        >>> decoder = HierarchicalDecoder(num_masks=3, dim=32, num_heads=2, mlp_dim=16)
        >>> decoder(torch.rand(2, 32, 2, 2), torch.rand(1, 32, 2, 2), first).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        num_masks: int,
        dim: int = 256,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        noise: float = 0.2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if num_masks < 2:
            raise ValueError(f"num_masks must be at least 2, background among them, got {num_masks}.")
        self.noise = ClassBalancedNoise(noise)
        self.enhance = ClassBalancedAttention(num_masks, dim, num_heads, mlp_dim)
        self.mask_tokens = nn.Embedding(num_masks, dim)
        self.blocks = nn.ModuleList(MaskTwoWayBlock(dim, num_heads, mlp_dim, dropout) for _ in range(DEPTH))
        self.final_attention = MaskCrossAttention(dim, num_heads, dropout)
        self.norm_final = nn.LayerNorm(dim)
        self.pixel_decoder = HierarchicalPixelDecoder(dim, skip_channels=dim // 8)
        self.filters = nn.ModuleList(MLP(dim, dim, dim // 16, FILTER_LAYERS) for _ in range(num_masks))

    def forward(self, embedding: Tensor, image_pe: Tensor, first: DecodedMasks) -> Tensor:
        prior = F.interpolate(first.masks.float(), size=embedding.shape[2:], mode="bilinear", align_corners=False)
        source = self.enhance(self.noise(embedding, prior), prior, first.tokens[:, 1:])
        tokens, grid = self._look(source, image_pe, prior.softmax(dim=1).to(embedding.dtype))
        features = self.pixel_decoder(grid, first.features)  # (B, C / 16, 16g, 16g)
        filters = torch.stack([mlp(tokens[:, i]) for i, mlp in enumerate(self.filters)], dim=1)
        return (filters @ features.flatten(2)).unflatten(2, features.shape[2:])

    def _look(self, source: Tensor, image_pe: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Let classes and pixels look at each other -> tokens (B, K, C) and the image (B, C, g, g)"""
        pixels, pixel_pe = source.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
        token_pe = self.mask_tokens.weight.expand(source.shape[0], -1, -1)
        tokens, mask = token_pe, mask.flatten(2)
        for block in self.blocks:
            tokens, pixels = block(tokens, pixels, token_pe, pixel_pe, mask)
        answer = self.final_attention(tokens + token_pe, pixels + pixel_pe, pixels, mask)
        return self.norm_final(tokens + answer), pixels.transpose(1, 2).reshape(source.shape)
