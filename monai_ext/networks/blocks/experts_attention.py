# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's attention without and with each of several experts, from one projection."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn as nn
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor

from monai_ext.networks.blocks.sam_attention import SAMAttention
from monai_ext.networks.layers.lora_experts import LoRAExpertsQKV
from monai_ext.networks.layers.recording import is_recorded


class SharedProjection(NamedTuple):
    """What all experts have in common in one attention.

    Attributes:
        tokens: (B, H, W, C), for the experts to look at.
        base: their frozen projection to query, key and value, (B, H, W, 3 * C).
        padding: the projection of a padded token, (1, 1, 1, 3 * C); None where windows are whole.
        rows: relative positions of rows, (h, h, D).
        columns: of columns, (w, w, D).
    """

    tokens: Tensor
    base: Tensor
    padding: Tensor | None
    rows: Tensor
    columns: Tensor


class ExpertsAttention(SAMAttention):
    """`SAMAttention` whose projection may be a `LoRAExpertsQKV`, for experts one after the other over shared work.

    Args:
        attention: see `SAMAttention`, as ``window_size``.
        window_size: see there.

    Shape:
        (B, H, W, C) -> (B, H, W, C)

    Example:
        >>> import torch
        >>> from segment_anything.modeling.image_encoder import Attention as PublishedAttention
        >>> from monai_ext.networks.layers.lora_experts import inject_experts
        >>> attention = ExpertsAttention(PublishedAttention(dim=8, num_heads=2, use_rel_pos=True, input_size=(4, 4)))
        >>> _ = inject_experts(attention, ("image", "pixel"))
        >>> shared = attention.share(torch.rand(1, 4, 4, 8))
        >>> attention.attend(shared, "pixel").shape
        torch.Size([1, 4, 4, 8])
    """

    def share(self, tokens: Tensor) -> SharedProjection:
        """Project tokens (B, H, W, C) once, without an expert; what is selected does not matter.

        Raises:
            ValueError: the projection has no experts.
        """
        layer = self._experts_layer()
        height, width, channels = tokens.shape[1:]
        size = (self.window_size or height, self.window_size or width)
        base = F.linear(tokens, layer.weight, layer.bias)
        # a padded token is zero, of which no expert makes anything: the same for all
        padded = bool(height % size[0] or width % size[1])
        padding = F.linear(tokens.new_zeros(1, 1, 1, channels), layer.weight, layer.bias) if padded else None
        rows, columns = (
            get_rel_pos(side, side, table) for side, table in zip(size, (self.rel_pos_h, self.rel_pos_w), strict=True)
        )
        return SharedProjection(tokens, base, padding, rows, columns)

    def attend(self, shared: SharedProjection, name: str | None = None) -> Tensor:
        """Attend with an expert, or with None exactly as a network that has none: -> (B, H, W, C)

        Raises:
            ValueError: there is no such expert.
        """
        on_cpu = shared.base.device.type == "cpu" and not is_recorded()
        attend = self._attend if on_cpu else self._attend_recorded
        return self.proj(attend(self._project(shared, name), shared.padding, shared.rows, shared.columns))

    def _project(self, shared: SharedProjection, name: str | None) -> Tensor:
        if name is None:
            return shared.base
        layer = self._experts_layer()
        return layer.factors(name).project(shared.tokens, shared.base, layer.scale)

    def _experts_layer(self) -> LoRAExpertsQKV:
        layer: nn.Module = self.qkv
        if not isinstance(layer, LoRAExpertsQKV):
            raise ValueError(f"qkv is a {type(layer).__name__} without experts; add them with inject_experts.")
        return layer
