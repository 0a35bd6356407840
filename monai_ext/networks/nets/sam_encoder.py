# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's image encoder with faster blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from monai_ext.networks.blocks.sam_block import SAMBlock
from monai_ext.networks.layers.recording import is_recorded


class SAMEncoder(nn.Module):
    """Drop-in for Segment Anything's image encoder (https://arxiv.org/abs/2304.02643): same parameters, same result.

    Args:
        encoder: the published encoder, whose parts are taken over (not copied).
        use_checkpoint: in training, recompute each block in the backward pass instead of keeping its activations.

    Shape:
        pixels (B, 3, S, S) with the side S the encoder was built for -> (B, 256, S / 16, S / 16)

    Raises:
        ValueError: the pixels have another side.

    Example:
        >>> encoder = SAMEncoder(ImageEncoderViT(img_size=64, embed_dim=8, depth=1, num_heads=2, use_rel_pos=True))
        >>> encoder(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 256, 4, 4])
    """

    def __init__(self, encoder: ImageEncoderViT, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.img_size = int(encoder.img_size)
        self.use_checkpoint = use_checkpoint
        self.patch_embed = encoder.patch_embed
        self.pos_embed = encoder.pos_embed
        self.blocks = nn.ModuleList(SAMBlock(block) for block in encoder.blocks)
        self.neck = encoder.neck

    def forward(self, pixels: Tensor) -> Tensor:
        return self.levels(pixels, ())[0]

    def levels(self, pixels: Tensor, blocks: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Encode, and return the tokens after some blocks, too.

        Args:
            pixels: as for `forward`.
            blocks: indices of blocks, counted from 0; negative ones count from the end.

        Returns:
            The embedding (B, 256, g, g), and for each index, in the order asked for, tokens (B, g, g, C).

        Raises:
            ValueError: the pixels have another side, or there is no such block.
        """
        self._check_size(pixels)
        wanted = [index % len(self.blocks) for index in blocks if -len(self.blocks) <= index < len(self.blocks)]
        if len(wanted) < len(blocks):
            raise ValueError(f"blocks must be indices below {len(self.blocks)}, got {list(blocks)}.")
        tokens = self.patch_embed(pixels)  # (B, 3, S, S) -> (B, g, g, C)
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        kept = {}
        for index, block in enumerate(self.blocks):
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if index in wanted:
                kept[index] = tokens
        return self.neck(tokens.permute(0, 3, 1, 2)), [kept[index] for index in wanted]

    def _check_size(self, pixels: Tensor) -> None:
        if is_recorded():
            return
        side = self.img_size
        if tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(f"pixels must be (B, 3, {side}, {side}), got {tuple(pixels.shape)}; resize and pad them.")
