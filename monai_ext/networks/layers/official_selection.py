# SPDX-License-Identifier: Apache-2.0
"""The mask that the published DeSAM chooses of those of many prompts, found with as few of them as possible."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from monai_ext.networks.layers._selection import (
    Decode,
    Selection,
    candidates_of,
    check_range,
    decoded_logits,
    nothing_selected,
    with_signs,
)
from monai_ext.networks.layers.mask_boxes import mask_boxes
from monai_ext.networks.layers.region_cleanup import clean_regions


def select_official(
    ious: Tensor,
    decode: Decode,
    *,
    size: tuple[int, int],
    iou_thresh: float = 0.5,
    nms_thresh: float = 0.7,
    min_region: int = 1000,
    upscale: int = 4,
) -> Selection:
    """Choose the mask that the published DeSAM uses: the first record of its automatic mask generator.

    The published pipeline (https://arxiv.org/abs/2306.00499) decodes the masks of all prompts above the threshold,
    drops duplicates by box NMS in the order of IoU, cleans up small regions, and repeats the NMS with a score of 1
    for masks that needed no clean-up and 0 for the others. Sorting is stable and a first box is never a duplicate,
    so its first record is the first mask after the first NMS that needed no clean-up, or else the first of all,
    cleaned. Masks are visited here in the order of IoU (of equal ones the first comes first) until one needs no
    clean-up: those after it neither come before it nor make a duplicate of it. Those before it must all be decoded,
    as each could have won or could have dropped it. If every mask needs the clean-up, every mask is decoded.

    A mask is where ``sigmoid(logit) > 0.5`` in float32, as published. This leaves out logits between 0 and 9e-8;
    their sign is changed in what is returned. Boxes are inclusive pixel indices: those of lines have no area, so lines
    are no duplicates and have none, and neither do empty masks.

    Arguments, errors and shapes are those of `select`. The published filter is off at a threshold of 0; this one
    leaves out negative IoUs then.

    Example:
        >>> spots, disc = torch.full((8, 8), -4.0), torch.full((8, 8), -4.0)
        >>> spots[::3, ::3], disc[1:7, 1:7] = 4.0, 4.0
        >>> masks = [disc, spots, disc]
        >>> select_official(torch.tensor([0.7, 0.9, 0.6]), lambda i: masks[i], size=(8, 8), min_region=4)[1:]
        (0, 2, False)
    """
    check_range(nms_thresh, "nms_thresh", 0, 1)
    check_range(min_region, "min_region", 0)
    check_range(upscale, "upscale", 1)
    first: Selection | None = None
    seen = torch.empty(0, 4)  # boxes after the NMS so far
    candidates = candidates_of(ious, iou_thresh)
    for decoded, index in enumerate(candidates, start=1):
        logits = _detour(decoded_logits(decode, index, size), upscale)
        mask = torch.sigmoid(logits) > 0.5
        boxes = torch.cat([seen, mask_boxes(mask)[0].cpu()[None]])
        if _has_duplicate(boxes, nms_thresh):
            continue
        seen = boxes
        clean, changed = clean_regions(mask, min_region)
        if first is None or not changed:
            selection = Selection(with_signs(logits, clean), index, decoded, changed)
            if not changed:
                return selection
            first = selection
    return nothing_selected(ious, size) if first is None else first._replace(decoded=len(candidates))


def _detour(logits: Tensor, upscale: int) -> Tensor:
    """Interpolate to a grid ``upscale`` times as fine and back, which blurs a little."""
    height, width = logits.shape
    fine = F.interpolate(
        logits[None, None], size=(upscale * height, upscale * width), mode="bilinear", align_corners=False
    )
    return F.interpolate(fine, size=(height, width), mode="bilinear", align_corners=False)[0, 0]


def _has_duplicate(boxes: Tensor, nms_thresh: float) -> bool:
    """Say whether NMS drops any of these boxes (N, 4), the best first."""
    scores = torch.arange(len(boxes), 0, -1, dtype=torch.float32)
    return len(nms(boxes, scores, nms_thresh)) < len(boxes)
