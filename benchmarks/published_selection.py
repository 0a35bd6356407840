# SPDX-License-Identifier: Apache-2.0
"""The published choice of one mask: all of them through every step, then the first record."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.utils.amg import batched_mask_to_box, remove_small_regions
from torch import Tensor
from torchvision.ops.boxes import batched_nms


class PublishedRecord(NamedTuple):
    """What the published automatic mask generator lists first.

    Attributes:
        mask: (h, w) bool, empty if no prompt was good enough.
        logits: (h, w), of that prompt before the clean-up.
        index: of the prompt, -1 if there is none.
        cleaned: whether the mask had small holes or islands.
    """

    mask: Tensor
    logits: Tensor
    index: int  # type: ignore[assignment]  # hides the method of tuples, for which a record has no use
    cleaned: bool


def through_image(logits: Tensor, image_size: int) -> Tensor:
    """Bring masks (B, 1, h, h) to the encoder's square and back to their size, where published images lie."""
    square = F.interpolate(logits, (image_size, image_size), mode="bilinear", align_corners=False)
    return F.interpolate(square, logits.shape[-2:], mode="bilinear", align_corners=False)


def first_record(
    ious: Tensor, logits: Tensor, iou_thresh: float, nms_thresh: float, min_region: int
) -> PublishedRecord:
    """Filter by IoU (P,), drop duplicates among masks (P, h, h), clean up, drop again, and return the first one."""
    kept = torch.nonzero(ious > iou_thresh)[:, 0]
    if len(kept) == 0:
        return PublishedRecord(torch.zeros_like(logits[0], dtype=torch.bool), logits[0], -1, False)
    masks = logits[kept].sigmoid() > 0.5
    first_pass = _without_duplicates(masks, ious[kept], nms_thresh)
    cleaned, unchanged = [], []
    for mask in masks[first_pass].numpy():
        filled, had_holes = remove_small_regions(mask, min_region, mode="holes")
        whole, had_islands = remove_small_regions(filled, min_region, mode="islands")
        cleaned.append(torch.from_numpy(whole))
        unchanged.append(0.0 if had_holes or had_islands else 1.0)
    best = int(_without_duplicates(torch.stack(cleaned), torch.tensor(unchanged), nms_thresh)[0])
    index = int(kept[first_pass[best]])
    return PublishedRecord(cleaned[best], logits[index], index, unchanged[best] == 0)


def _without_duplicates(masks: Tensor, scores: Tensor, nms_thresh: float) -> Tensor:
    return batched_nms(batched_mask_to_box(masks).float(), scores, torch.zeros(len(masks)), nms_thresh)
