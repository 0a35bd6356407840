# SPDX-License-Identifier: Apache-2.0
"""Masked autoencoder: learns images by filling in most of their patches."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.networks.blocks.mae_block import LAYER_NORM_EPS, MAEBlock
from monai_ext.networks.nets.mae_encoder import MAEEncoder, fixed_positions, initialise, mae_preset, take


class MaskedAutoencoder(MAEEncoder):
    """Masked autoencoder (He et al. 2022, https://arxiv.org/abs/2111.06377), under its published names.

    ::

        patches ─ some at random ─ encoder ─ + mask tokens, in place ─ decoder ─ all patches

    Args:
        embed_dim: see `MAEEncoder`, as the next six.
        depth: see there.
        num_heads: see there.
        image_size: see there.
        patch_size: see there.
        in_channels: see there.
        feature_layer: see there; of `features` only.
        decoder_dim: channels of the decoder's tokens.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
        mask_ratio: part of the patches that is hidden.

    Shape:
        image (B, in_channels, S, S) -> a list of the predicted patches and the true ones, normalised, both (B, L, 3 *
        patch_size²) with a patch's rows, columns, channels in this order, and of what was hidden, (B, L), 1 or 0. It
        is what `MaskedPatchLoss` takes.

    Raises:
        ValueError: an argument out of its range, or an image of another form.

    Example:
        >>> network = build_mae("small", image_size=64)
        >>> [tuple(x.shape) for x in network(torch.rand(2, 1, 64, 64))]
        [(2, 16, 768), (2, 16, 768), (2, 16)]
    """

    def __init__(
        self,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 1,
        feature_layer: int | None = None,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mask_ratio: float = 0.75,
    ) -> None:
        super().__init__(embed_dim, depth, num_heads, image_size, patch_size, in_channels, feature_layer)
        if not 0 < mask_ratio < 1 or int(self.grid**2 * (1 - mask_ratio)) < 1:
            raise ValueError(
                f"mask_ratio must be between 0 and 1 and leave one of {self.grid**2} patches, got {mask_ratio}."
            )
        self.mask_ratio = mask_ratio
        self.decoder_embed = nn.Linear(embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_pos_embed = fixed_positions(self.grid, decoder_dim)
        self.decoder_blocks = nn.ModuleList(MAEBlock(decoder_dim, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(decoder_dim, 3 * patch_size**2)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            part.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(  # type: ignore[override]  # the encoder's is `features` here
        self, image: Tensor, order: Tensor | None = None
    ) -> list[Tensor]:
        """Hide patches, predict all.

        Args:
            image: (B, in_channels, S, S).
            order: (B, L), the indices of all patches; the first are kept. None draws it.
        """
        pixels = self.pixels(image)
        length = self.grid**2
        if order is None:
            order = torch.rand(len(image), length, device=image.device).argsort(dim=1)
        kept = order[:, : int(length * (1 - self.mask_ratio))]
        predicted = self.decode(self.encode(pixels, kept), order)
        hidden = torch.ones(len(image), length, device=image.device).scatter(1, kept, 0.0)
        return [predicted, patches_of(pixels, self.patch_size), hidden]

    def decode(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Predict all patches: class token and K patches (B, 1 + K, embed_dim) -> (B, L, 3 * patch_size²).

        Args:
            tokens: of the encoder.
            order: (B, L), the indices of all patches, those of ``tokens`` first.
        """
        tokens = self.decoder_embed(tokens)
        missing = self.mask_token.expand(len(tokens), order.shape[1] + 1 - tokens.shape[1], -1)
        in_order = torch.cat([tokens[:, 1:], missing.to(tokens.dtype)], dim=1)
        tokens = torch.cat([tokens[:, :1], take(in_order, order.argsort(dim=1))], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_pred(self.decoder_norm(tokens))[:, 1:]


def build_mae(
    teacher: str = "vit_large", image_size: int = 224, in_channels: int = 1, mask_ratio: float = 0.75
) -> MaskedAutoencoder:
    """Build a masked autoencoder, random.

    Args:
        teacher: ``vit_large``, ``vit_base``, or ``small`` (ours, without published weights).
        image_size: see `MaskedAutoencoder`, as the others.
        in_channels: see there.
        mask_ratio: see there.

    Raises:
        ValueError: there is no such network.

    Example:
        >>> sum(weight.numel() for weight in build_mae("small").parameters()) < 3e6
        True
    """
    preset = mae_preset(teacher)
    return MaskedAutoencoder(
        preset.embed_dim,
        preset.depth,
        preset.num_heads,
        image_size=image_size,
        in_channels=in_channels,
        decoder_dim=preset.decoder_dim,
        decoder_depth=preset.decoder_depth,
        decoder_heads=preset.decoder_heads,
        mask_ratio=mask_ratio,
    )


def patches_of(pixels: Tensor, patch_size: int) -> Tensor:
    """Cut into patches: (B, C, H, W) -> (B, L, patch_size² * C), row by row; channels are a patch's last axis.

    Example:
        >>> patches_of(torch.arange(8.0).reshape(1, 1, 2, 4), 2)[0].tolist()
        [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    cut = pixels.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # (B, C, rows, p, columns, q)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
