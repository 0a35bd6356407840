# SPDX-License-Identifier: Apache-2.0
"""SimCLRv2's ResNet with selective kernels, the teacher of the image level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.blocks.anisotropic_res_block import conv_norm
from monai_ext.networks.blocks.sk_bottleneck import EXPANSION, SKBottleneck
from monai_ext.networks.layers.pixels import check_channels, three_channels

STRIDE = 4  # of stem and pooling
STAGES = 4


@dataclass(frozen=True)
class ResNetSKPreset:
    """What tells SimCLRv2's networks apart.

    Attributes:
        base_channels: width of stem and first stage, doubled from stage to stage; 64 times the width multiplier.
        layers: blocks of each stage.
    """

    base_channels: int
    layers: tuple[int, ...]


RESNET_SK_PRESETS = {
    "r50_1x_sk1": ResNetSKPreset(64, (3, 4, 6, 3)),
    "r50_2x_sk1": ResNetSKPreset(128, (3, 4, 6, 3)),
    "small": ResNetSKPreset(16, (1, 1, 1, 1)),  # ours, for two cores and for tests; there are no published weights
}


class ResNetSK(nn.Module):
    """ResNet with selective kernels (Chen et al. 2020, SimCLRv2, https://arxiv.org/abs/2006.10029).

    Pixels are taken from 0 to 1, as they are: SimCLR does not normalise them. Padding is that of the published
    TensorFlow code, which pads the pooling of the stem on the right and below only.

    Args:
        base_channels: width of stem and first stage, doubled from stage to stage.
        layers: blocks of each of the four stages.
        sk_ratio: see `SelectiveKernel`.
        in_channels: 1 is repeated to 3, 3 is taken as it is.
        num_classes: of the published linear classifier ``fc``; 0 for none. Features do not pass through it.
        feature_stage: stage whose mean over the image is returned, 1 to 4.

    Attributes:
        out_channels: of the features.
        licence: of the weights it was given; empty if nothing is known.

    Shape:
        image (B, in_channels, H, W), sides multiples of 4 -> features (B, out_channels)

    Raises:
        ValueError: an argument out of its range, or an image of another form.

    Example:
        >>> import torch
        >>> network = build_resnet_sk("small").eval()
        >>> network(torch.rand(2, 1, 64, 64)).shape, network.features(torch.rand(2, 1, 64, 64)).shape
        (torch.Size([2, 512]), torch.Size([2, 512, 2, 2]))
    """

    def __init__(
        self,
        base_channels: int = 128,
        layers: Sequence[int] = (3, 4, 6, 3),
        sk_ratio: float = 0.0625,
        in_channels: int = 1,
        num_classes: int = 0,
        feature_stage: int = STAGES,
    ) -> None:
        super().__init__()
        _check(base_channels, layers, in_channels, feature_stage)
        self.in_channels = in_channels
        self.feature_stage = feature_stage
        self.licence = ""
        half = base_channels // 2
        self.stem = nn.Sequential(
            conv_norm(3, half, (3, 3), (2, 2)),
            conv_norm(half, half, (3, 3), (1, 1)),
            conv_norm(half, base_channels, (3, 3), (1, 1)),
        )
        channels = base_channels
        for stage, blocks in enumerate(layers):
            width = base_channels * 2**stage
            self.add_module(f"layer{stage + 1}", _stage(channels, width, blocks, 1 if stage == 0 else 2, sk_ratio))
            channels = EXPANSION * width
        self.fc = nn.Linear(channels, num_classes) if num_classes else None
        self.out_channels = EXPANSION * base_channels * 2 ** (feature_stage - 1)
        self.apply(_initialise)
        for block in self.modules():
            if isinstance(block, SKBottleneck):
                nn.init.zeros_(block.expand.norm.weight)  # type: ignore[arg-type, union-attr]  # blocks start as shortcuts

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image).mean(dim=(2, 3))

    def features(self, image: Tensor) -> Tensor:
        """Return the map of ``feature_stage``: (B, out_channels, H / s, W / s), s = 4, 8, 16 or 32."""
        self._check_image(image)
        hidden = three_channels(image, None)
        for layer in self.stem:
            hidden = F.relu(layer(hidden))
        hidden = F.max_pool2d(F.pad(hidden, (0, 1, 0, 1)), kernel_size=3, stride=2)  # nothing is below zero here
        for stage in range(1, self.feature_stage + 1):
            hidden = getattr(self, f"layer{stage}")(hidden)
        return hidden

    def _check_image(self, image: Tensor) -> None:
        check_channels(image, self.in_channels)
        if any(side % STRIDE for side in image.shape[-2:]):
            raise ValueError(f"sides of the image must be multiples of {STRIDE}, got {tuple(image.shape[-2:])}.")


def build_resnet_sk(
    teacher: str = "r50_2x_sk1", in_channels: int = 1, num_classes: int = 0, feature_stage: int = STAGES
) -> ResNetSK:
    """Build one of SimCLRv2's networks, random.

    Args:
        teacher: ``r50_2x_sk1``, ``r50_1x_sk1``, or ``small`` (ours, without published weights).
        in_channels: see `ResNetSK`, as the others.
        num_classes: see there.
        feature_stage: see there.

    Raises:
        ValueError: there is no such network.

    Example:
        >>> build_resnet_sk("small").out_channels
        512
    """
    if teacher not in RESNET_SK_PRESETS:
        raise ValueError(f"teacher must be one of {', '.join(RESNET_SK_PRESETS)}, got {teacher!r}.")
    preset = RESNET_SK_PRESETS[teacher]
    return ResNetSK(
        preset.base_channels,
        preset.layers,
        in_channels=in_channels,
        num_classes=num_classes,
        feature_stage=feature_stage,
    )


def _check(base_channels: int, layers: Sequence[int], in_channels: int, feature_stage: int) -> None:
    if base_channels < 2 or base_channels % 2:
        raise ValueError(f"base_channels must be a positive even number, got {base_channels}.")
    if len(layers) != STAGES or min(layers) < 1:
        raise ValueError(f"layers must be {STAGES} numbers of blocks, got {list(layers)}.")
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels must be 1 or 3, got {in_channels}.")
    if not 1 <= feature_stage <= STAGES:
        raise ValueError(f"feature_stage must be in [1, {STAGES}], got {feature_stage}.")


def _stage(in_channels: int, channels: int, blocks: int, stride: int, sk_ratio: float) -> nn.Sequential:
    first = SKBottleneck(in_channels, channels, stride, projection=True, sk_ratio=sk_ratio)
    return nn.Sequential(
        first, *(SKBottleneck(EXPANSION * channels, channels, sk_ratio=sk_ratio) for _ in range(blocks - 1))
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_in = module.weight[0].numel()
        nn.init.trunc_normal_(module.weight, std=fan_in**-0.5, a=-2 * fan_in**-0.5, b=2 * fan_in**-0.5)
