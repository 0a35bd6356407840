# SPDX-License-Identifier: Apache-2.0
"""SAM2-UNet: SAM 2's frozen encoder with adapters, receptive-field blocks and a U-Net decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.blocks.receptive_field import ReceptiveFieldBlock
from monai_ext.networks.blocks.skip_up import SkipUp
from monai_ext.networks.checkpoints import load_trunk
from monai_ext.networks.layers.lora import inject_lora, merge_lora
from monai_ext.networks.layers.pixels import build_stem, check_channels, pixel_statistics, three_channels
from monai_ext.networks.nets.hiera import STRIDE, build_hiera

TUNINGS = ("adapter", "lora", "full", "frozen")


class SAM2UNet(nn.Module):
    """Segmentation network of SAM2-UNet (Xiong et al. 2024, https://arxiv.org/abs/2408.08870, figure 2).

    ::

        image ─ Hiera ─┬─ 1/4  ─ RFB ──────────────────────── up ─ head  ─> logits
                       ├─ 1/8  ─ RFB ───────────── up ───────┘  └─ side2 ─> (training only)
                       ├─ 1/16 ─ RFB ── up ───────┘  └──── side1 ─> (training only)
                       └─ 1/32 ─ RFB ──┘

    Normalisation, padding to the encoder's stride and the way back to the input's size happen inside, so that an
    exported file is right by itself. Weights carry the published names; the published, never used ``up4`` does not
    exist here.

    Args:
        in_channels: channels of the image. 1 is repeated to 3, 3 is taken as it is, any other number goes through
            a trainable 1x1 convolution that starts as the mean of the channels.
        num_classes: channels of the output. 1 is one object against background (sigmoid); more are classes with
            background as class 0 (the largest wins).
        backbone: ``tiny``, ``small``, ``base_plus``, ``large``, or ``nano`` (ours, for tests).
        image_size: (height, width) or one side: the image is resized to it (bilinear) and the logits back to the
            image's size. None works at the image's own size.
        pixel_mean: mean of the three channels that the encoder sees, in the unit of the image's values.
        pixel_std: their standard deviation.
        tuning: what trains beside the decoder: ``adapter`` (published), ``lora`` (rank ``lora_rank`` on query and
            value), ``full`` (the whole encoder), ``frozen`` (nothing of the encoder).
        adapter_dim: hidden channels of the adapters.
        adapter_zero_init: let the adapters start as "no change"; the published ones start at random.
        lora_rank: rank of the low-rank updates.
        decoder_channels: channels of the decoder.
        decoder_attention: gate the skips by attention.
        use_checkpoint: trade time for memory in training: recompute encoder blocks in the backward pass.
        dropout: probability of dropping whole channels before the output layers.

    Shape:
        image (B, in_channels, H, W), values as the preprocessing gives them, usually 0 to 1.
        In ``eval()``: logits (B, num_classes, H, W). In ``train()``: a list of three such, the main one first, then
        those from 1/16 (coarsest) and 1/8, for deep supervision.

    Raises:
        ValueError: an unknown backbone or tuning, or an image with another number of channels.

    Example:
        >>> network = SAM2UNet(in_channels=1, num_classes=4, backbone="nano", decoder_channels=8).eval()
        >>> network(torch.rand(2, 1, 50, 70)).shape
        torch.Size([2, 4, 50, 70])
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        backbone: str = "large",
        image_size: int | Sequence[int] | None = None,
        pixel_mean: Sequence[float] = (0.485, 0.456, 0.406),
        pixel_std: Sequence[float] = (0.229, 0.224, 0.225),
        tuning: str = "adapter",
        adapter_dim: int = 32,
        adapter_zero_init: bool = False,
        lora_rank: int = 4,
        decoder_channels: int = 64,
        decoder_attention: bool = False,
        use_checkpoint: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_arguments(num_classes, tuning)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.image_size = _pair(image_size)
        # not in the state dict: the published checkpoints do not have them and they are knobs, not weights
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.stem = build_stem(in_channels)

        self.encoder = build_hiera(
            backbone, adapter_dim if tuning == "adapter" else 0, adapter_zero_init, use_checkpoint
        )
        _choose_trainable(self.encoder, tuning, lora_rank)

        level1, level2, level3, level4 = self.encoder.channels
        self.rfb1 = ReceptiveFieldBlock(level1, decoder_channels)
        self.rfb2 = ReceptiveFieldBlock(level2, decoder_channels)
        self.rfb3 = ReceptiveFieldBlock(level3, decoder_channels)
        self.rfb4 = ReceptiveFieldBlock(level4, decoder_channels)
        self.up1 = SkipUp(decoder_channels, decoder_attention)
        self.up2 = SkipUp(decoder_channels, decoder_attention)
        self.up3 = SkipUp(decoder_channels, decoder_attention)
        self.dropout = nn.Dropout2d(dropout)
        self.side1 = nn.Conv2d(decoder_channels, num_classes, kernel_size=1)
        self.side2 = nn.Conv2d(decoder_channels, num_classes, kernel_size=1)
        self.head = nn.Conv2d(decoder_channels, num_classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        pixels = self.preprocess(image)
        size = (pixels.shape[-2], pixels.shape[-1])
        level1, level2, level3, level4 = self.encoder(_pad_to_stride(pixels))

        sixteenth = self.up1(self.rfb4(level4), self.rfb3(level3))
        eighth = self.up2(sixteenth, self.rfb2(level2))
        quarter = self.up3(eighth, self.rfb1(level1))

        outputs = [(self.head, quarter, 4)]
        if self.training:  # the other heads exist for deep supervision only
            outputs += [(self.side1, sixteenth, 16), (self.side2, eighth, 8)]
        logits = [_to_pixels(head(self.dropout(level)), scale, size) for head, level, scale in outputs]
        if self.image_size is not None:  # asked by knob and not by comparing sizes, so that a trace fits any size
            target = image.shape[-2:]
            logits = [F.interpolate(x, size=target, mode="bilinear", align_corners=False) for x in logits]
        return logits if self.training else logits[0]

    def preprocess(self, image: Tensor) -> Tensor:
        """Make the three normalised channels that the encoder sees: (B, in_channels, H, W) -> (B, 3, H', W')."""
        check_channels(image, self.in_channels)
        if self.image_size is not None:
            image = F.interpolate(image, size=self.image_size, mode="bilinear", align_corners=False)
        image = three_channels(image, self.stem)
        return (image - self.pixel_mean) / self.pixel_std

    def load_pretrained(self, path: str | Path | None) -> SAM2UNet:
        """Load SAM 2's published trunk, or a whole SAM2-UNet's; see `load_trunk`."""
        return load_trunk(self, path)

    def merge_lora(self) -> SAM2UNet:
        """Fold low-rank updates into the projections, in place, for export; does nothing without them."""
        merge_lora(self)
        return self


def _check_arguments(num_classes: int, tuning: str) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    if tuning not in TUNINGS:
        raise ValueError(f"tuning must be one of {', '.join(TUNINGS)}, got {tuning!r}.")


def _choose_trainable(encoder: nn.Module, tuning: str, lora_rank: int) -> None:
    """Freeze what ``tuning`` leaves alone."""
    if tuning == "full":
        return
    encoder.requires_grad_(False)
    if tuning == "lora":
        inject_lora(encoder, rank=lora_rank)
    for name, weight in encoder.named_parameters():
        if "prompt_learn" in name or "lora_" in name:
            weight.requires_grad_(True)


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _pad_to_stride(pixels: Tensor) -> Tensor:
    """Pad below and right with zeros, the mean pixel, up to multiples of the encoder's stride."""
    rows, columns = -pixels.shape[-2] % STRIDE, -pixels.shape[-1] % STRIDE
    return F.pad(pixels, (0, columns, 0, rows)) if rows or columns else pixels


def _to_pixels(logits: Tensor, scale: int, size: tuple[int, int]) -> Tensor:
    """Upsample by ``scale`` and cut off what was padded."""
    logits = F.interpolate(logits, scale_factor=float(scale), mode="bilinear", align_corners=False)
    return logits[..., : size[0], : size[1]]
