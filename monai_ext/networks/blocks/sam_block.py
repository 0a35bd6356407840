# SPDX-License-Identifier: Apache-2.0
"""A transformer block of Segment Anything's image encoder."""

from __future__ import annotations

import torch
import torch.nn as nn
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import Block
from torch import Tensor

from monai_ext.networks.blocks.sam_attention import SAMAttention
from monai_ext.networks.layers.recording import is_recorded


class SAMBlock(nn.Module):
    """Drop-in for Segment Anything's block with the same parameters and the same result, see `SAMAttention`.

    Args:
        block: the published block, whose parts are taken over (not copied).

    Shape:
        (B, H, W, C) -> (B, H, W, C)

    Example:
        >>> import torch
        >>> block = SAMBlock(Block(dim=8, num_heads=2, use_rel_pos=True, window_size=4, input_size=(6, 6)))
        >>> block(torch.rand(1, 6, 6, 8)).shape
        torch.Size([1, 6, 6, 8])
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = SAMAttention(block.attn, block.window_size)
        self.norm2 = block.norm2
        self.mlp = block.mlp

    def forward(self, tokens: Tensor) -> Tensor:
        return self._perceive(tokens + self.attn(self.norm1(tokens)))

    def _perceive(self, attended: Tensor) -> Tensor:
        mlp = self.mlp
        if torch.is_grad_enabled() or is_recorded() or type(mlp) is not MLPBlock or type(mlp.act) is not nn.GELU:
            return attended + mlp(self.norm2(attended))
        # the hidden channels are the largest tensor of a block: held once where no gradient needs them as they were
        hidden = mlp.lin1(self.norm2(attended))
        return attended + mlp.lin2(torch.ops.aten.gelu_(hidden, approximate=mlp.act.approximate))
