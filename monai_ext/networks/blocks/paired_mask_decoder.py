# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's mask decoder for batches: image i is decoded with prompt i."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from segment_anything.modeling import MaskDecoder
from torch import Tensor

from monai_ext.networks.layers.recording import is_recorded


class DecodedMasks(NamedTuple):
    """All that a `PairedMaskDecoder` made, for a further stage that goes on from it.

    Attributes:
        masks: logits (B, K, 4g, 4g).
        tokens: (B, 1 + K, C), the quality token first.
        features: the enlarged embedding that the masks are read from, (B, C / 8, 4g, 4g).
    """

    masks: Tensor
    tokens: Tensor
    features: Tensor


class PairedMaskDecoder(nn.Module):
    """Drop-in for the published decoder with the same parameters, which pairs images and prompts one to one.

    The decoder of Segment Anything (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, figure 14) serves many
    prompts of one image: it repeats the image for each prompt, so that several images with a prompt each become a
    product of both and fail. Here a batch is a batch. A single prompt (or image) serves all images (or prompts).

    Args:
        decoder: the published decoder, whose parts are taken over (not copied).

    Shape:
        embedding (B, C, g, g), image_pe (1, C, g, g), sparse (B, N, C), dense (B, C, g, g) -> masks
        (B, K, 4g, 4g), logits, and tokens (B, 1 + K, C), the quality token first. B may be 1 for any of them.

    Raises:
        ValueError: the batches are neither equal nor 1.

    Example:
        >>> from segment_anything.modeling import TwoWayTransformer
        >>> transformer = TwoWayTransformer(depth=1, embedding_dim=32, num_heads=2, mlp_dim=16)
        >>> decoder = PairedMaskDecoder(MaskDecoder(transformer_dim=32, transformer=transformer))
        >>> image, position = torch.rand(3, 32, 4, 4), torch.rand(1, 32, 4, 4)
        >>> masks, tokens = decoder(image, position, sparse=torch.rand(3, 2, 32), dense=torch.rand(1, 32, 4, 4))
        >>> masks.shape, tokens.shape, decoder.quality(tokens).shape
        (torch.Size([3, 4, 16, 16]), torch.Size([3, 5, 32]), torch.Size([3, 4]))
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        self.num_mask_tokens = int(decoder.num_mask_tokens)
        self.transformer = decoder.transformer
        self.iou_token = decoder.iou_token
        self.mask_tokens = decoder.mask_tokens
        self.output_upscaling = decoder.output_upscaling
        self.output_hypernetworks_mlps = decoder.output_hypernetworks_mlps
        self.iou_prediction_head = decoder.iou_prediction_head

    def forward(
        self, embedding: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, num_masks: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode; with ``num_masks`` only the masks of the first tokens are made (the others cost nothing)."""
        decoded = self.decode(embedding, image_pe, sparse, dense, num_masks)
        return decoded.masks, decoded.tokens

    def decode(
        self, embedding: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, num_masks: int | None = None
    ) -> DecodedMasks:
        """Decode as `forward` does, and return what the masks were made of as well."""
        batch = _common_batch(embedding, sparse, dense)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + K, C)
        queries = torch.cat([own.expand(batch, -1, -1), sparse.expand(batch, -1, -1)], dim=1)
        source = (embedding + dense).expand(batch, -1, -1, -1)

        queries, pixels = self.transformer(source, image_pe.expand(batch, -1, -1, -1), queries)
        tokens = queries[:, : 1 + self.num_mask_tokens]

        grid = pixels.transpose(1, 2).reshape(source.shape)
        features = self.output_upscaling(grid)  # (B, C / 8, 4g, 4g)
        count = self.num_mask_tokens if num_masks is None else num_masks
        filters = [self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in range(count)]
        masks = torch.stack(filters, dim=1) @ features.flatten(2)  # (B, K, C / 8) @ (B, C / 8, 16 g g)
        return DecodedMasks(masks.unflatten(-1, features.shape[-2:]), tokens, features)

    def quality(self, tokens: Tensor) -> Tensor:
        """Predict the IoU of every mask, (B, K), from the tokens (B, 1 + K, C) that `forward` returned."""
        return self.iou_prediction_head(tokens[:, 0])


def _common_batch(embedding: Tensor, sparse: Tensor, dense: Tensor) -> int:
    sizes = {"images": embedding.shape[0], "sparse prompts": sparse.shape[0], "dense prompts": dense.shape[0]}
    several = {name: size for name, size in sizes.items() if size != 1}
    batch = next(iter(several.values()), embedding.shape[0])  # a traced size stays free, a number does not
    # a traced or exported file has the check behind it, and comparing its free batch would fix it
    if not is_recorded() and any(s != batch for s in several.values()):
        raise ValueError(
            f"images and prompts are paired one to one, so their numbers must be equal or 1, got "
            f"{', '.join(f'{size} {name}' for name, size in sizes.items())}."
        )
    return batch
