# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's parts, built for any image size; parameters keep the published names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn as nn
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from monai_ext.networks.blocks.paired_mask_decoder import PairedMaskDecoder
from monai_ext.networks.nets.sam_encoder import SAMEncoder

PATCH = 16
EMBEDDING = 256
PUBLISHED_TOKENS = 4


@dataclass(frozen=True)
class SamPreset:
    """What tells Segment Anything's encoders apart.

    Attributes:
        embed_dim: channels of a token.
        depth: number of blocks.
        num_heads: attention heads of each.
        global_blocks: indices, from 0, of the blocks that attend to the whole image; the others see windows of 14 x 14.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]

    @property
    def context_blocks(self) -> tuple[int, ...]:
        """Indices of the blocks whose tokens DeSAM's mask module reads: the first three that see the whole image.

        Our smallest encoder has two of those; it gives every other block.
        """
        return self.global_blocks[:3] if len(self.global_blocks) > 3 else tuple(range(1, self.depth, 2))


SAM_PRESETS = {
    "vit_tiny": SamPreset(192, 6, 3, (2, 5)),  # ours, for two cores and for tests; there are no published weights
    "vit_b": SamPreset(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamPreset(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamPreset(1280, 32, 16, (7, 15, 23, 31)),
}


def build_published_encoder(sam_type: str = "vit_b", image_size: int = 1024) -> ImageEncoderViT:
    """Build the ``segment-anything`` package's own image encoder.

    Args:
        sam_type: ``vit_tiny``, ``vit_b``, ``vit_l`` or ``vit_h``.
        image_size: side of its square input in pixels, a multiple of 16.

    Raises:
        ValueError: an unknown type or a size that is no multiple of 16.

    Example:
        >>> sum(p.numel() for p in build_published_encoder("vit_tiny", 64).parameters()) < 5e6
        True
    """
    preset = preset_of(sam_type)
    check_image_size(image_size)
    return ImageEncoderViT(
        depth=preset.depth,
        embed_dim=preset.embed_dim,
        img_size=image_size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=preset.num_heads,
        patch_size=PATCH,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=preset.global_blocks,
        window_size=14,
        out_chans=EMBEDDING,
    )


def build_sam_encoder(sam_type: str = "vit_b", image_size: int = 1024, use_checkpoint: bool = False) -> SAMEncoder:
    """Build the image encoder with our attention: the same parameters and results, less memory and time.

    Args:
        sam_type: see `build_published_encoder`.
        image_size: see there.
        use_checkpoint: recompute blocks in the backward pass instead of keeping what they computed.

    Example:
        >>> import torch
        >>> build_sam_encoder("vit_tiny", 64)(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 256, 4, 4])
    """
    return SAMEncoder(build_published_encoder(sam_type, image_size), use_checkpoint)


def build_prompt_encoder(image_size: int = 1024) -> PromptEncoder:
    """Build the package's prompt encoder for images of ``image_size`` x ``image_size`` pixels."""
    check_image_size(image_size)
    grid = image_size // PATCH
    return PromptEncoder(
        embed_dim=EMBEDDING,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )


def build_mask_decoder(num_mask_tokens: int = PUBLISHED_TOKENS) -> PairedMaskDecoder:
    """Build the mask decoder, which pairs prompts and images one by one.

    Args:
        num_mask_tokens: masks it can predict; the published weights have 4.

    Raises:
        ValueError: fewer than one token.

    Example:
        >>> sum(p.numel() for p in build_mask_decoder(9).parameters())
        4759945
    """
    return PairedMaskDecoder(_published_decoder(num_mask_tokens))


def build_plain_sam(sam_type: str = "vit_b", image_size: int = 1024, num_mask_tokens: int = PUBLISHED_TOKENS) -> Sam:
    """Build the package's own Segment Anything, for comparison and for loading merged weights into.

    At 1024 and with 4 tokens it is what the package's ``sam_model_registry`` builds.
    """
    return Sam(
        image_encoder=build_published_encoder(sam_type, image_size),
        prompt_encoder=build_prompt_encoder(image_size),
        mask_decoder=_published_decoder(num_mask_tokens),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()


def preset_of(sam_type: str) -> SamPreset:
    """Return the preset called ``sam_type``.

    Raises:
        ValueError: there is none; the message names those there are.
    """
    if sam_type not in SAM_PRESETS:
        raise ValueError(f"sam_type must be one of {', '.join(SAM_PRESETS)}, got {sam_type!r}.")
    return SAM_PRESETS[sam_type]


def check_image_size(image_size: int) -> None:
    """Refuse a side that cannot be cut into patches.

    Raises:
        ValueError: ``image_size`` is no positive multiple of 16; the message offers the nearest.
    """
    if not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < PATCH or image_size % PATCH:
        near = max(PATCH, round(float(image_size) / PATCH) * PATCH) if isinstance(image_size, int | float) else 1024
        raise ValueError(
            f"image_size must be one whole number, a multiple of {PATCH}, got {image_size!r}; {near} would do."
        )


def _published_decoder(num_mask_tokens: int) -> MaskDecoder:
    if num_mask_tokens < 1:
        raise ValueError(f"num_mask_tokens must be at least 1, got {num_mask_tokens}.")
    return MaskDecoder(
        num_multimask_outputs=num_mask_tokens - 1,
        transformer=TwoWayTransformer(depth=2, embedding_dim=EMBEDDING, mlp_dim=2048, num_heads=8),
        transformer_dim=EMBEDDING,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
