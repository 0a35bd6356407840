# SPDX-License-Identifier: Apache-2.0
"""The encoder of masked autoencoders, the teacher of the patch level."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn as nn
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from torch import Tensor

from monai_ext.networks.blocks.mae_block import LAYER_NORM_EPS, MAEBlock
from monai_ext.networks.layers.pixels import check_channels, pixel_statistics, three_channels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MAEPreset:
    """What tells masked autoencoders apart.

    Attributes:
        embed_dim: channels of the encoder's tokens.
        depth: its blocks.
        num_heads: its attention heads.
        decoder_dim: channels of the decoder's tokens.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
    """

    embed_dim: int
    depth: int
    num_heads: int
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16


MAE_PRESETS = {
    "vit_base": MAEPreset(768, 12, 12),
    "vit_large": MAEPreset(1024, 24, 16),
    # ours, for two cores and for tests; there are no published weights
    "small": MAEPreset(192, 4, 3, decoder_dim=96, decoder_depth=2, decoder_heads=3),
}


class MAEEncoder(nn.Module):
    """Encoder of a masked autoencoder (He et al. 2022, https://arxiv.org/abs/2111.06377), under its published names.

    Called with an image it sees all of it and gives the tokens as a map, without the class token: what a student is
    taught. Pixels are taken from 0 to 1 and normalised here, as ImageNet's.

    Args:
        embed_dim: channels of the tokens.
        depth: number of blocks.
        num_heads: attention heads of each.
        image_size: side of the images in pixels, a multiple of ``patch_size``; 224 is published.
        patch_size: side of a patch.
        in_channels: 1 is repeated to 3, 3 is taken as it is.
        feature_layer: number of blocks after which the map is taken; None means all. The final norm is always applied.

    Attributes:
        out_channels: of the features.
        grid: side of their map.
        licence: of the weights it was given; empty if nothing is known.

    Shape:
        image (B, in_channels, S, S) with S = image_size -> features (B, embed_dim, S / patch_size, S / patch_size)

    Raises:
        ValueError: an argument out of its range, or an image of another form.

    Example:
        >>> MAEEncoder(embed_dim=8, depth=1, num_heads=2, image_size=64)(torch.rand(2, 1, 64, 64)).shape
        torch.Size([2, 8, 4, 4])
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 1,
        feature_layer: int | None = None,
    ) -> None:
        super().__init__()
        _check(image_size, patch_size, in_channels, depth, feature_layer)
        self.image_size = image_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.feature_layer = depth if feature_layer is None else feature_layer
        self.grid = image_size // patch_size
        self.out_channels = embed_dim
        self.licence = ""
        mean, std = pixel_statistics(IMAGENET_MEAN, IMAGENET_STD)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.patch_embed = _Patches(embed_dim, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = fixed_positions(self.grid, embed_dim)
        self.blocks = nn.ModuleList(MAEBlock(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.apply(initialise)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(embed_dim, -1))

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image)

    def features(self, image: Tensor) -> Tensor:
        """Describe the whole image, nothing masked: (B, in_channels, S, S) -> (B, embed_dim, grid, grid)."""
        tokens = self.encode(self.pixels(image), blocks=self.feature_layer)[:, 1:]
        return tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))

    def pixels(self, image: Tensor) -> Tensor:
        """Return what the network sees: three channels, normalised.

        Raises:
            ValueError: the image has another form.
        """
        check_channels(image, self.in_channels)
        if tuple(image.shape[-2:]) != (self.image_size, self.image_size):
            raise ValueError(f"image must be {self.image_size} x {self.image_size}, got {tuple(image.shape[-2:])}.")
        return (three_channels(image, None) - self.pixel_mean) / self.pixel_std

    def encode(self, pixels: Tensor, kept: Tensor | None = None, blocks: int | None = None) -> Tensor:
        """Encode patches and the class token, which comes first.

        Args:
            pixels: (B, 3, S, S).
            kept: (B, K), indices of the patches that are seen, in any order; None for all.
            blocks: how many blocks to use; None for all.

        Returns:
            tokens (B, 1 + K, embed_dim), in the order of ``kept``.
        """
        tokens = self.patch_embed(pixels) + self.pos_embed[:, 1:]
        if kept is not None:
            tokens = take(tokens, kept)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat([first, tokens], dim=1)
        for block in self.blocks[:blocks]:
            tokens = block(tokens)
        return self.norm(tokens)


def build_mae_encoder(
    teacher: str = "vit_large", image_size: int = 224, in_channels: int = 1, feature_layer: int | None = None
) -> MAEEncoder:
    """Build the encoder of a masked autoencoder, random.

    Args:
        teacher: ``vit_large``, ``vit_base``, or ``small`` (ours, without published weights).
        image_size: see `MAEEncoder`, as the others.
        in_channels: see there.
        feature_layer: see there.

    Raises:
        ValueError: there is no such network.

    Example:
        >>> build_mae_encoder("small").grid
        14
    """
    preset = mae_preset(teacher)
    return MAEEncoder(
        preset.embed_dim,
        preset.depth,
        preset.num_heads,
        image_size=image_size,
        in_channels=in_channels,
        feature_layer=feature_layer,
    )


def mae_preset(teacher: str) -> MAEPreset:
    """Return the preset called ``teacher``.

    Raises:
        ValueError: there is none; the message names those there are.
    """
    if teacher not in MAE_PRESETS:
        raise ValueError(f"teacher must be one of {', '.join(MAE_PRESETS)}, got {teacher!r}.")
    return MAE_PRESETS[teacher]


def fixed_positions(grid: int, dim: int) -> nn.Parameter:
    """Return sines and cosines of each patch's place, with zeros for the class token before: (1, 1 + grid², dim).

    Raises:
        ValueError: ``dim`` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"channels of the tokens must be a multiple of 4, got {dim}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI leaves an argument of torch.meshgrid to its default
        table = build_sincos_position_embedding(grid, dim, spatial_dims=2)
    return nn.Parameter(torch.cat([torch.zeros(1, 1, dim), table], dim=1), requires_grad=False)


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Take tokens of each image: (B, L, C) and (B, K) -> (B, K, C)."""
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2]))


def initialise(module: nn.Module) -> None:
    """Xavier and zero for linear layers, as published."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class _Patches(nn.Module):
    def __init__(self, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)  # (B, 3, S, S) -> (B, L, C)


def _check(image_size: int, patch_size: int, in_channels: int, depth: int, feature_layer: int | None) -> None:
    if image_size < patch_size or image_size % patch_size:
        raise ValueError(f"image_size must be a multiple of {patch_size}, got {image_size}.")
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels must be 1 or 3, got {in_channels}.")
    if feature_layer is not None and not 1 <= feature_layer <= depth:
        raise ValueError(f"feature_layer must be in [1, {depth}] or None, got {feature_layer}.")
