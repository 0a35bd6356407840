# SPDX-License-Identifier: Apache-2.0
"""DeSAM's prompt-relevant IoU module: Segment Anything's mask decoder without its masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor

from monai_ext.networks.blocks.paired_mask_decoder import PairedMaskDecoder
from monai_ext.networks.blocks.pimm import PIMM
from monai_ext.networks.layers.recording import is_recorded


class PromptFreeSide(NamedTuple):
    """What `PRIM` computes of an image before it sees a prompt.

    Attributes:
        source: image and dense embedding, (B, C, g, g).
        positions: the code of each place, (1 or B, g g, C).
        keys: the first layer's keys of the image, for the tokens to look at, (B, g g, C / 2).
        values: what they then read, (B, g g, C / 2).
        queries: the first layer's queries of the image, which looks at the tokens, (B, g g, C / 2).
    """

    source: Tensor
    positions: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor

    def row(self, index: int) -> PromptFreeSide:
        """Return what belongs to one image; positions are the same in all."""
        return PromptFreeSide(*(part if part.shape[0] == 1 else part[index : index + 1] for part in self))

    def repeated(self, times: int) -> PromptFreeSide:
        """Repeat each image, one behind the other, for as many prompts."""
        own = [part.repeat_interleave(times, dim=0) for part in (self.source, self.keys, self.values, self.queries)]
        return PromptFreeSide(own[0], self.positions, *own[1:])


class PRIM(nn.Module):
    """The two-way transformer of Segment Anything, read out as a mask embedding and a prediction of its IoU.

    The prompt-relevant IoU module of DeSAM (https://arxiv.org/abs/2306.00499). The mask embedding is not a token but
    the image itself as the transformer leaves it. Image i meets prompt i; one image serves all prompts, and one prompt
    all images. What the first layer makes of the image is computed once (`image_side`), also for many prompts.

    The parameters are those of the published decoder, also those that nothing executes (the masks' upscaling and
    hypernetworks), so that its checkpoints load. What is never executed is frozen.

    Args:
        decoder: whose parts are taken over (not copied), ours or the published one.
        num_ious: predictions per prompt, the first outputs of the head: 1 in DeSAM; one for each class is our
            extension; with 0, for a prompt that is always the whole image, head and last attention are left out.
        pimm: kept as a part and not called, because published state dicts have its weights among the decoder's.

    Shape:
        embedding (B, C, g, g), image_pe (1, C, g, g), sparse (B, N, C), dense (B, C, g, g) -> IoU (B, num_ious), not
        limited to 0..1, and mask embedding (B, C, g, g). B may be 1 for any of them.

    Raises:
        ValueError: more predictions than mask tokens; a shape that does not fit; numbers of images and prompts that
            are neither equal nor 1.

    Example:
        >>> from segment_anything.modeling import TwoWayTransformer
        >>> transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=16)
        >>> module = PRIM(MaskDecoder(transformer_dim=32, transformer=transformer))
        >>> image = module.image_side(torch.rand(1, 32, 4, 4), torch.rand(1, 32, 4, 4), torch.rand(1, 32, 1, 1))
        >>> iou, mask_embedding = module.predict(image, torch.rand(9, 2, 32))
        >>> iou.shape, mask_embedding.shape
        (torch.Size([9, 1]), torch.Size([9, 32, 4, 4]))
    """

    def __init__(self, decoder: MaskDecoder | PairedMaskDecoder, num_ious: int = 1, pimm: PIMM | None = None) -> None:
        super().__init__()
        if not 0 <= num_ious <= decoder.num_mask_tokens:
            raise ValueError(f"num_ious must be 0 to {decoder.num_mask_tokens}, one a mask token, got {num_ious}.")
        self.num_ious = num_ious
        self.transformer = decoder.transformer
        self.iou_token = decoder.iou_token
        self.mask_tokens = decoder.mask_tokens
        self.output_upscaling = decoder.output_upscaling.requires_grad_(False)
        self.output_hypernetworks_mlps = decoder.output_hypernetworks_mlps.requires_grad_(False)
        self.iou_prediction_head = decoder.iou_prediction_head
        if pimm is not None:
            self.pimm = pimm
        if num_ious == 0:
            for part in (self.iou_prediction_head, *self._last_attention()):
                part.requires_grad_(False)

    def forward(self, embedding: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(self.image_side(embedding, image_pe, dense), sparse)

    def image_side(self, embedding: Tensor, image_pe: Tensor, dense: Tensor) -> PromptFreeSide:
        """Compute what the tokens of the prompt have no part in."""
        _check_channels(embedding, self.iou_token.embedding_dim)
        source = embedding + dense
        pixels, positions = _as_tokens(source), _as_tokens(image_pe)
        reading, writing = _cross_attentions(self.transformer.layers[0])
        placed = pixels + positions
        return PromptFreeSide(source, positions, reading.k_proj(placed), reading.v_proj(pixels), writing.q_proj(placed))

    def predict(self, image: PromptFreeSide, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Return the IoU (B, num_ious) and the mask embedding (B, C, g, g) of prompts (B, N, C) in images."""
        batch = _common_batch(image.source, sparse)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + K, C)
        prompt = torch.cat([own.expand(batch, -1, -1), sparse.expand(batch, -1, -1)], dim=1)

        first, *others = self.transformer.layers
        tokens = _ask(first, prompt, prompt, image.keys, image.values)
        pixels = _tell(first, tokens, prompt, _as_tokens(image.source), image.queries)
        for layer in others:
            reading, writing = _cross_attentions(layer)
            placed = pixels + image.positions
            tokens = _ask(layer, tokens, prompt, reading.k_proj(placed), reading.v_proj(pixels))
            pixels = _tell(layer, tokens, prompt, pixels, writing.q_proj(placed))

        mask_embedding = pixels.transpose(1, 2).unflatten(-1, image.source.shape[-2:])
        return self._iou(tokens, prompt, pixels, image.positions), mask_embedding

    def _iou(self, tokens: Tensor, prompt: Tensor, pixels: Tensor, positions: Tensor) -> Tensor:
        if self.num_ious == 0:
            return tokens.new_zeros(tokens.shape[0], 0)
        reading, norm = self._last_attention()
        token = tokens[:, :1]  # attention treats each token by itself, and only the first is read
        keys, values = reading.k_proj(pixels + positions), reading.v_proj(pixels)
        token = norm(token + _attend(reading, reading.q_proj(token + prompt[:, :1]), keys, values))
        return self.iou_prediction_head(token[:, 0])[:, : self.num_ious]

    def _last_attention(self) -> tuple[Attention, nn.Module]:
        return self.transformer.final_attn_token_to_image, self.transformer.norm_final_attn


def _cross_attentions(layer: TwoWayAttentionBlock) -> tuple[Attention, Attention]:
    return layer.cross_attn_token_to_image, layer.cross_attn_image_to_token


def _ask(layer: TwoWayAttentionBlock, tokens: Tensor, prompt: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Let the tokens (B, T, C) look at each other, then at the image."""
    if layer.skip_first_layer_pe:
        tokens = layer.norm1(layer.self_attn(tokens, tokens, tokens))
    else:
        placed = tokens + prompt
        tokens = layer.norm1(tokens + layer.self_attn(placed, placed, tokens))
    reading = layer.cross_attn_token_to_image
    tokens = layer.norm2(tokens + _attend(reading, reading.q_proj(tokens + prompt), keys, values))
    return layer.norm3(tokens + layer.mlp(tokens))


def _tell(layer: TwoWayAttentionBlock, tokens: Tensor, prompt: Tensor, pixels: Tensor, queries: Tensor) -> Tensor:
    """Let the image (B, g g, C) look at the tokens."""
    writing = layer.cross_attn_image_to_token
    looked = queries, writing.k_proj(tokens + prompt), writing.v_proj(tokens)
    return layer.norm4(pixels + _attend(writing, *looked))


def _attend(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with projections (B or 1, T, C / 2) that have been made; a batch of 1 is not repeated in memory."""
    batch = keys.shape[0] if queries.shape[0] == 1 else queries.shape[0]
    heads = [
        x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2).expand(batch, -1, -1, -1)
        for x in (queries, keys, values)
    ]
    mixed = F.scaled_dot_product_attention(*heads)  # (B, heads, T, C / 2 / heads)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _as_tokens(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)  # (B, C, g, g) -> (B, g g, C)


def _check_channels(embedding: Tensor, channels: int) -> None:
    if not is_recorded() and (embedding.ndim != 4 or embedding.shape[1] != channels):
        raise ValueError(f"embedding must be (B, {channels}, g, g), got {tuple(embedding.shape)}.")


def _common_batch(source: Tensor, sparse: Tensor) -> int:
    images, prompts = source.shape[0], sparse.shape[0]
    if not is_recorded() and 1 not in (images, prompts) and images != prompts:
        raise ValueError(
            f"images and prompts are paired one to one, so their numbers must be equal or 1, got {images} images and "
            f"{prompts} prompts."
        )
    return prompts if images == 1 else images
