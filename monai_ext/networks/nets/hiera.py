# SPDX-License-Identifier: Apache-2.0
"""SAM 2's image encoder trunk, Hiera, in its four published sizes, with optional adapters."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import Hiera
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from monai_ext.networks.blocks.hiera_block import HieraBlock
from monai_ext.networks.layers.adapter import AdaptedBlock, PromptAdapter

STRIDE = 32  # between the input and the deepest level


@dataclass(frozen=True)
class HieraPreset:
    """Sizes of one Hiera variant; ``fit`` is the side whose multiples need no window padding."""

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    background: int
    windows: tuple[int, int, int, int]
    fit: int

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four levels, from the finest to the deepest."""
        return (self.embed_dim, 2 * self.embed_dim, 4 * self.embed_dim, 8 * self.embed_dim)


# the four of SAM 2 and 2.1 (whose trunks are alike), and `nano`, our own, for tests on two cores
HIERA_PRESETS: dict[str, HieraPreset] = {
    "nano": HieraPreset(16, 1, (1, 1, 2, 1), (3,), 7, (8, 4, 14, 7), 224),
    "tiny": HieraPreset(96, 1, (1, 2, 7, 2), (5, 7, 9), 7, (8, 4, 14, 7), 224),
    "small": HieraPreset(96, 1, (1, 2, 11, 2), (7, 10, 13), 7, (8, 4, 14, 7), 224),
    "base_plus": HieraPreset(112, 2, (2, 3, 16, 3), (12, 16, 20), 14, (8, 4, 14, 7), 224),
    "large": HieraPreset(144, 2, (2, 6, 36, 4), (23, 33, 43), 7, (8, 4, 16, 8), 256),
}


class HieraEncoder(nn.Module):
    """Hiera trunk of SAM 2 (https://arxiv.org/abs/2408.00714) that returns its four levels.

    Parameters carry SAM 2's names, except that block ``i`` is found under ``blocks.{i}.block`` because an adapter may
    sit before it (``blocks.{i}.prompt_learn``). Windows are computed without padding, see `HieraBlock`.

    Args:
        trunk: a ``sam2`` trunk, whose parts are taken over; see `build_hiera`.
        adapter_dim: hidden channels of the adapters; 0 for none.
        adapter_zero_init: let adapters start as "no change".
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Shape:
        image (B, 3, H, W), H and W multiples of 32 -> four maps (B, C_l, H / 4, W / 4) to (B, C_l, H / 32, W / 32)

    Raises:
        ValueError: a side is not a multiple of 32.

    Example:
        >>> import torch
        >>> [tuple(level.shape) for level in build_hiera("nano")(torch.rand(1, 3, 64, 64))]
        [(1, 16, 16, 16), (1, 32, 8, 8), (1, 64, 4, 4), (1, 128, 2, 2)]
    """

    def __init__(
        self, trunk: Hiera, adapter_dim: int = 0, adapter_zero_init: bool = False, use_checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.stage_ends = list(trunk.stage_ends)
        self.channels = [int(trunk.blocks[i].dim_out) for i in self.stage_ends]
        self.patch_embed = trunk.patch_embed
        self.pos_embed = trunk.pos_embed
        self.pos_embed_window = trunk.pos_embed_window
        self.blocks = nn.ModuleList()
        for block in trunk.blocks:
            adapter = PromptAdapter(block.dim, adapter_dim, adapter_zero_init) if adapter_dim else None
            self.blocks.append(AdaptedBlock(HieraBlock(block), adapter))

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"height and width must be multiples of {STRIDE}, got {height} x {width}; "
                f"pad to {-(-height // STRIDE) * STRIDE} x {-(-width // STRIDE) * STRIDE}."
            )
        tokens = self.patch_embed(image)  # (B, 3, H, W) -> (B, H / 4, W / 4, C)
        tokens = tokens + self._position(tokens.shape[1], tokens.shape[2])
        levels = []
        for index, block in enumerate(self.blocks):
            if self.use_checkpoint and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if index in self.stage_ends:
                levels.append(tokens.permute(0, 3, 1, 2))  # (B, h, w, C) -> (B, C, h, w)
        return levels

    def _position(self, height: int, width: int) -> Tensor:
        """Smooth background embedding plus one repeated in each window: (1, height, width, C)."""
        background = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic")
        side = self.pos_embed_window.shape[-1]
        return (background + self.pos_embed_window.tile(1, 1, height // side, width // side)).permute(0, 2, 3, 1)


def build_hiera(
    backbone: str, adapter_dim: int = 0, adapter_zero_init: bool = False, use_checkpoint: bool = False
) -> HieraEncoder:
    """Build a trunk by name, with random weights, on the CPU and without SAM 2's configuration files.

    Args:
        backbone: ``tiny``, ``small``, ``base_plus`` or ``large``; ``nano`` is our own preset for tests.
        adapter_dim: see `HieraEncoder`, as the rest.
        adapter_zero_init: see `HieraEncoder`.
        use_checkpoint: see `HieraEncoder`.

    Raises:
        ValueError: there is no such backbone.
    """
    return HieraEncoder(build_sam2_trunk(backbone), adapter_dim, adapter_zero_init, use_checkpoint)


def build_sam2_trunk(backbone: str) -> Hiera:
    """Build the ``sam2`` package's own trunk by the same names (the reference that ours is tested against)."""
    if backbone not in HIERA_PRESETS:
        raise ValueError(f"backbone must be one of {', '.join(HIERA_PRESETS)}, got {backbone!r}.")
    preset = HIERA_PRESETS[backbone]
    trunk = Hiera(
        embed_dim=preset.embed_dim,
        num_heads=preset.num_heads,
        stages=preset.stages,
        global_att_blocks=preset.global_blocks,
        window_pos_embed_bkg_spatial_size=(preset.background, preset.background),
        window_spec=preset.windows,
    )
    # SAM 2 leaves these at zero, to be loaded; a trunk that is trained from scratch must tell places apart
    nn.init.trunc_normal_(trunk.pos_embed, std=0.02)
    nn.init.trunc_normal_(trunk.pos_embed_window, std=0.02)
    return trunk
