# SPDX-License-Identifier: Apache-2.0
"""Which frozen encoder small weights belong to, told by a hash."""

from __future__ import annotations

import hashlib
import re

import torch
import torch.nn as nn

_OF_SIZE = re.compile(r"(^|\.)(pos_embed|rel_pos_[hw])$")


def base_hash(encoder: nn.Module) -> str:
    """Return the SHA-256 of a Segment Anything encoder's frozen weights, without its low-rank updates.

    Tables of positions do not count: they are resized to the image size, and an update trained at one size may be
    used at another. All else is the same at any size, so two encoders of one file have one hash.

    Args:
        encoder: the image encoder itself, not the network around it; on any device.

    Example:
        >>> from monai_ext.networks.nets.sam import build_sam_encoder
        >>> len(base_hash(build_sam_encoder("vit_tiny", 64)))
        64
    """
    total = hashlib.sha256()
    state = encoder.state_dict()
    for name in sorted(name for name in state if "lora_" not in name and not _OF_SIZE.search(name)):
        weight = state[name].detach().cpu().contiguous()
        total.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        total.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
