# SPDX-License-Identifier: Apache-2.0
"""The published way of what we compute, over the same weights, for comparison."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from sam2_unet.network import SAM2UNet
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor

from monai_ext.networks.layers.lora import inject_lora
from monai_ext.networks.nets.hiera import build_sam2_trunk
from monai_ext.networks.nets.sam import build_published_encoder
from monai_ext.networks.nets.sam_encoder import SAMEncoder


class PublishedForward(nn.Module):
    """Padded windows of the ``sam2`` package, and all three outputs at full size in training and at inference.

    Written from the paper (https://arxiv.org/abs/2408.08870) on the package's trunk; shares every weight with the
    given network.

    Args:
        network: ours, with adapters, three channels and without ``image_size`` or attention.
        backbone: the name it was built with.

    Shape:
        image (B, 3, H, W), H and W multiples of 32 -> logits [main, coarse, middle], each (B, num_classes, H, W)
    """

    def __init__(self, network: SAM2UNet, backbone: str) -> None:
        super().__init__()
        self.network = network
        # loading by assignment takes over whether weights train, too: ours are frozen
        self.trunk = build_sam2_trunk(backbone).requires_grad_(False)
        weights = {n.replace(".block.", "."): w for n, w in network.encoder.state_dict(keep_vars=True).items()}
        self.trunk.load_state_dict({n: w for n, w in weights.items() if "prompt_learn" not in n}, assign=True)

    def forward(self, image: Tensor) -> list[Tensor]:
        network = self.network
        skips = self._encode(network.preprocess(image))
        rfbs = (network.rfb1, network.rfb2, network.rfb3, network.rfb4)
        level1, level2, level3, deep = (rfb(skip) for rfb, skip in zip(rfbs, skips, strict=True))
        sixteenth = network.up1(deep, level3)
        coarse = _enlarge(network.side1(sixteenth), 16)
        eighth = network.up2(sixteenth, level2)
        middle = _enlarge(network.side2(eighth), 8)
        return [_enlarge(network.head(network.up3(eighth, level1)), 4), coarse, middle]

    def _encode(self, pixels: Tensor) -> list[Tensor]:
        tokens = self.trunk.patch_embed(pixels)
        tokens = tokens + self.trunk._get_pos_embed(tokens.shape[1:3])
        levels = []
        adapters = [block.get_submodule("prompt_learn") for block in self.network.encoder.blocks]
        for index, (adapter, block) in enumerate(zip(adapters, self.trunk.blocks, strict=True)):
            tokens = block(tokens + adapter(tokens))
            if index in self.trunk.stage_ends:
                levels.append(tokens.permute(0, 3, 1, 2))
        return levels


def build_pair(backbone: str, **arguments: object) -> tuple[PublishedForward, SAM2UNet]:
    """Build the published network and ours with the same random weights."""
    torch.manual_seed(0)
    network = SAM2UNet(backbone=backbone, **arguments)  # type: ignore[arg-type]
    return PublishedForward(network, backbone), network


def build_sam_encoders(sam_type: str, side: int, lora_rank: int = 0) -> tuple[ImageEncoderViT, SAMEncoder]:
    """Build the ``segment-anything`` package's encoder and ours around the same random weights.

    Positions, which the package sets to zero to be loaded, are random, too. With ``lora_rank`` the encoder is frozen
    and has low-rank updates that train.
    """
    torch.manual_seed(0)
    published = build_published_encoder(sam_type, side).eval()
    for name, weight in published.named_parameters():
        if "pos" in name:
            nn.init.normal_(weight, std=0.1)
    if lora_rank:
        published.requires_grad_(False)
        inject_lora(published, rank=lora_rank)
        for name, weight in published.named_parameters():
            if name.endswith("_up"):  # zero at first, which would leave the other factor without a gradient
                nn.init.normal_(weight, std=0.02)
    return published, SAMEncoder(published).eval()


def _enlarge(logits: Tensor, scale: float) -> Tensor:
    return F.interpolate(logits, scale_factor=float(scale), mode="bilinear", align_corners=False)
