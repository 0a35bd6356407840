# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's position embeddings for another image size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.checkpoints.common import State
from monai_ext.networks.nets.sam import SAM_PRESETS, build_plain_sam
from monai_ext.networks.state_match import check

# what exists once for each mask that the decoder can predict
TOKEN_PARTS = (
    "mask_decoder.mask_tokens.",
    "mask_decoder.output_hypernetworks_mlps.",
    "mask_decoder.iou_prediction_head.",
)
POSITION = "image_encoder.pos_embed"


def fit_sam(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    global_blocks: Sequence[int],
    new_tokens: bool = False,
) -> State:
    """Resize what depends on the image's size to what a network wants; up or down, any multiple of 16.

    The absolute positions are resized bilinearly. The relative ones are resized linearly, and only in the blocks that
    attend to the whole image, chosen by index: those of the windowed blocks belong to the windows, whose size stays.
    At run time Segment Anything would resize the latter in the same way.

    Args:
        state: plain Segment Anything's weights.
        wanted: what the network has; may lie on the meta device.
        global_blocks: indices of the blocks without windows, as `SamPreset` has them.
        new_tokens: leave out what belongs to single masks (`TOKEN_PARTS`), to be learned anew.

    Returns:
        A new dictionary; weights that need no change are the same tensors. What does not fit for another reason is
        left as it is, for `check` to name.

    Example:
        >>> from monai_ext.networks.nets.sam import build_plain_sam
        >>> large, small = (build_plain_sam("vit_tiny", side).state_dict() for side in (128, 64))
        >>> fit_sam(large, small, SAM_PRESETS["vit_tiny"].global_blocks)["image_encoder.pos_embed"].shape
        torch.Size([1, 4, 4, 192])
    """
    tables = {f"image_encoder.blocks.{i}.attn.rel_pos_{side}" for i in global_blocks for side in "hw"}
    fitted: State = {}
    for name, weight in state.items():
        if new_tokens and name.startswith(TOKEN_PARTS):
            continue
        target = wanted.get(name)
        if target is not None and weight.shape != target.shape and weight.ndim == target.ndim:
            if name == POSITION and weight.shape[3] == target.shape[3]:
                weight = _resized_positions(weight, target.shape[1], target.shape[2])
            elif name in tables and weight.shape[1] == target.shape[1]:
                weight = _resized_table(weight, target.shape[0])
        fitted[name] = weight
    return fitted


def resize_plain_sam(state: Mapping[str, Tensor], sam_type: str, image_size: int) -> State:
    """Bring plain Segment Anything's weights to another image size.

    Resizing there and back is not exact: the smaller size has fewer numbers.

    Raises:
        ValueError: ``image_size`` is no positive multiple of 16, or there is no such ``sam_type``.
        InputError: these weights are no plain Segment Anything of this type.
    """
    with torch.device("meta"):  # shapes are enough
        wanted = build_plain_sam(sam_type, image_size, state["mask_decoder.mask_tokens.weight"].shape[0]).state_dict()
    fitted = fit_sam(state, wanted, SAM_PRESETS[sam_type].global_blocks)
    check(fitted, wanted, f"these weights, as {sam_type} at {image_size}")
    return fitted


def _resized_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """(1, g, g, C) -> (1, height, width, C)"""
    grid = positions.permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    return grid.permute(0, 2, 3, 1).to(positions.dtype).contiguous()


def _resized_table(table: Tensor, rows: int) -> Tensor:
    """(2 * g - 1, C) -> (rows, C)"""
    resized = F.interpolate(table.T[None].float(), size=rows, mode="linear", align_corners=False)
    return resized[0].T.to(table.dtype).contiguous()
