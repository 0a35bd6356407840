# SPDX-License-Identifier: Apache-2.0
"""DeSAM's prompt-invariant mask module: masks from the image's features, whatever the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn as nn
from monai.networks.blocks.dynunet_block import get_conv_layer
from torch import Tensor

from monai_ext.networks.blocks.se_res_block import BlockShare, SEResBlock
from monai_ext.networks.layers.recording import is_recorded

CHANNELS = (256, 128, 64)  # at the grid of the encoder, at twice and at four times its size


class PIMM(nn.Module):
    """A U-shaped decoder over three levels of a Segment Anything encoder, started by a mask embedding.

    The prompt-invariant mask module of DeSAM (https://arxiv.org/abs/2306.00499; its later versions say
    prompt-decoupled). Only the mask embedding depends on the prompt. What the features contribute, convolutions of
    the joined maps included, is in `contexts`: once per image; `decode` is what each prompt costs.

    ::

        features[2] (deep)  ─ block ──────────────────────────┐
        mask embedding ───────────────────────── join ─ block ┴─ up ─┐
        features[1]         ─ block ─ up ─ block ───────────── join ─┴─ block ─ up ─┐
        features[0]         ─ block ─ up ─ block ─ up ─ block ──────────────── join ┴─ block ─ 1x1 ─ logits

    Args:
        in_channels: channels D of the encoder's features.
        num_classes: channels of the output. DeSAM knows one object; several channels are our extension.

    Shape:
        mask_embedding (B, 256, g, g), features three times (B, D, g, g) -> logits (B, num_classes, 4g, 4g).
        Features of one image (B = 1) serve all mask embeddings. g is at least 2.

    Raises:
        ValueError: a shape that does not fit; the message names the one that would.

    Example:
        >>> module = PIMM(in_channels=32)
        >>> one_image = [torch.rand(1, 32, 4, 4) for _ in range(3)]
        >>> contexts = module.contexts(one_image)
        >>> module.decode(torch.rand(9, 256, 4, 4), contexts).shape
        torch.Size([9, 1, 16, 16])
    """

    def __init__(self, in_channels: int, num_classes: int = 1) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        self.in_channels = in_channels
        # the names of the parts are those of the published state dict
        self.conv_blocks_context = nn.ModuleList(_Context(in_channels, c, ups) for ups, c in enumerate(CHANNELS))
        self.mask_embedding_fusion = SEResBlock(2 * CHANNELS[0], CHANNELS[0])
        self.conv_blocks_localization = nn.ModuleList(_Localization(deep, c) for deep, c in pairwise(CHANNELS))
        self.seg_outputs = nn.ModuleList(nn.Conv2d(c, num_classes, 1, bias=False) for c in CHANNELS[1:])
        self.seg_outputs[0].requires_grad_(False)  # in published files, but the final mask has no use for it

    def forward(self, mask_embedding: Tensor, features: Sequence[Tensor]) -> Tensor:
        return self.decode(mask_embedding, self.contexts(features))

    def contexts(self, features: Sequence[Tensor]) -> tuple[BlockShare, ...]:
        """Compute what does not depend on the prompt: the image's shares of the three joins, deepest first.

        Args:
            features: outputs of the encoder's first three global blocks, shallow to deep, each (B, D, g, g).
        """
        _check_features(features, self.in_channels)
        joins: list[Any] = [self.mask_embedding_fusion, *(block.res_block for block in self.conv_blocks_localization)]
        shares = []
        for context, join, feature, c in zip(
            self.conv_blocks_context, joins, reversed(features), CHANNELS, strict=True
        ):
            # tokens seen as a map are channels-last in memory, in which the convolutions are slower on a CPU
            shares.append(join.share(context(feature.contiguous()), first=c))
        return tuple(shares)

    def decode(self, mask_embedding: Tensor, contexts: Sequence[BlockShare]) -> Tensor:
        """Decode mask embeddings (B, 256, g, g) with what `contexts` returned, to logits (B, num_classes, 4g, 4g)."""
        _check_embedding(mask_embedding, contexts[0].main)
        fusion = self.mask_embedding_fusion
        x = fusion.join(fusion.share(mask_embedding.contiguous()), contexts[0])
        for localization, context in zip(self.conv_blocks_localization, contexts[1:], strict=True):
            x = localization(x, context)
        return self.seg_outputs[-1](x)


class _Context(nn.Module):
    """One level of features brought to its channels and doubled in size ``ups`` times."""

    def __init__(self, in_channels: int, out_channels: int, ups: int) -> None:
        super().__init__()
        self.block_init = SEResBlock(in_channels, out_channels)
        self.residual_block = nn.Sequential(
            *(
                nn.Sequential(_up(out_channels, out_channels), SEResBlock(out_channels, out_channels))
                for _ in range(ups)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.residual_block(self.block_init(x))


class _Localization(nn.Module):
    """A step of the decoder: double the size, join the image's share, convolve."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv = _up(in_channels, out_channels)
        self.res_block = SEResBlock(2 * out_channels, out_channels)

    def forward(self, x: Tensor, context: BlockShare) -> Tensor:
        return self.res_block.join(self.res_block.share(self.transp_conv(x)), context)


def _up(in_channels: int, out_channels: int) -> nn.Module:
    return get_conv_layer(2, in_channels, out_channels, kernel_size=2, stride=2, is_transposed=True)


def _check_features(features: Sequence[Tensor], channels: int) -> None:
    if is_recorded():
        return
    shapes = [tuple(feature.shape) for feature in features]
    first = shapes[0] if shapes else ()
    alike = len(shapes) == 3 and shapes.count(first) == 3
    if not alike or len(first) != 4 or first[1] != channels or min(first[2:]) < 2:
        raise ValueError(
            f"features must be three maps of one shape (B, {channels}, g, g), shallow to deep, with g at least 2, got "
            f"{', '.join(str(shape) for shape in shapes) or 'none'}."
        )


def _check_embedding(embedding: Tensor, context: Tensor) -> None:
    if is_recorded():
        return
    images, right = context.shape[0], (CHANNELS[0], *context.shape[2:])
    if embedding.ndim != 4 or tuple(embedding.shape[1:]) != right or images not in (1, embedding.shape[0]):
        number = "B" if images == 1 else str(images)
        raise ValueError(
            f"mask_embedding must be ({number}, {', '.join(map(str, right))}) to go with the features of {images} "
            f"image(s), got {tuple(embedding.shape)}."
        )
