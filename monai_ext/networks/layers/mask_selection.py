# SPDX-License-Identifier: Apache-2.0
"""One mask from the masks of many prompts, with no more of them decoded than the choice needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.layers._selection import (
    EMPTY_LOGIT,
    Decode,
    Selection,
    candidates_of,
    check_range,
    cleaned_selection,
    decoded_logits,
    nothing_selected,
)
from monai_ext.networks.layers.official_selection import select_official

__all__ = [
    "EMPTY_LOGIT",
    "SELECTIONS",
    "Decode",
    "Selection",
    "select",
    "select_official",
    "select_top1",
    "select_vote",
]

SELECTIONS = ("official", "top1", "vote")


def select(
    name: str,
    ious: Tensor,
    decode: Decode,
    *,
    size: tuple[int, int],
    iou_thresh: float = 0.5,
    min_region: int = 1000,
    nms_thresh: float = 0.7,
    upscale: int = 4,
    top: int = 5,
) -> Selection:
    """Choose a mask by one of `SELECTIONS`.

    Args:
        name: ``official`` for `select_official`, ``top1`` for `select_top1`, ``vote`` for `select_vote`.
        ious: (P,) predicted IoU of each prompt.
        decode: gives the mask logits (H, W) of the prompt with an index in [0, P). It is called at most once for
            each prompt, in the order of descending IoU.
        size: H and W of what ``decode`` gives.
        iou_thresh: prompts of this IoU or less are left out; at least 0.
        min_region: area in pixels below which holes are filled and islands dropped, 0 for no clean-up.
        nms_thresh: ``official`` only: masks count as duplicates if the IoU of their boxes is greater; in [0, 1].
        upscale: ``official`` only: factor of the detour of the logits over a finer grid; at least 1.
        top: ``vote`` only: how many masks vote at most; at least 1.

    Returns:
        The selection; all its logits are `EMPTY_LOGIT` and its index is -1 if no IoU is above ``iou_thresh``.

    Raises:
        InputError: another name, or an option out of its range.
        ValueError: ``ious`` is not a vector, or a decoded mask does not have the size.

    Example:
        >>> masks = torch.full((3, 8, 8), -4.0)
        >>> masks[1, 2:6, 2:6] = 4.0
        >>> chosen = select("top1", torch.tensor([0.4, 0.9, 0.6]), lambda i: masks[i], size=(8, 8), min_region=0)
        >>> chosen.index, chosen.decoded, int((chosen.logits > 0).sum())
        (1, 1, 16)
    """
    if name == "official":
        return select_official(
            ious,
            decode,
            size=size,
            iou_thresh=iou_thresh,
            nms_thresh=nms_thresh,
            min_region=min_region,
            upscale=upscale,
        )
    if name == "top1":
        return select_top1(ious, decode, size=size, iou_thresh=iou_thresh, min_region=min_region)
    if name == "vote":
        return select_vote(ious, decode, size=size, iou_thresh=iou_thresh, top=top, min_region=min_region)
    raise InputError(f"selection must be one of {', '.join(SELECTIONS)}, got {name!r}.")


def select_top1(
    ious: Tensor, decode: Decode, *, size: tuple[int, int], iou_thresh: float = 0.5, min_region: int = 0
) -> Selection:
    """Choose the mask of the highest IoU; one mask is decoded.

    Arguments, errors and shapes are those of `select`.

    Example:
        >>> select_top1(torch.tensor([0.2, 0.4]), lambda index: torch.ones(2, 2), size=(2, 2))
        Selection(logits=tensor([[-10., -10.],
                [-10., -10.]]), index=-1, decoded=0, cleaned=False)
    """
    check_range(min_region, "min_region", 0)
    best = candidates_of(ious, iou_thresh)[:1]
    if not best:
        return nothing_selected(ious, size)
    return cleaned_selection(decoded_logits(decode, best[0], size), best[0], 1, min_region)


def select_vote(
    ious: Tensor, decode: Decode, *, size: tuple[int, int], iou_thresh: float = 0.5, top: int = 5, min_region: int = 0
) -> Selection:
    """Average the masks of the highest IoUs: the mean of their probabilities, weighted by IoU.

    This is ours, not DeSAM's. Up to ``top`` masks are decoded. The logits are those of the mean probability, without
    its loss of precision close to 0 and 1. Arguments, errors and shapes are those of `select`.

    Example:
        >>> masks = torch.tensor([3.0, -3.0, 2.0]).reshape(3, 1, 1)
        >>> vote = select_vote(torch.tensor([0.9, 0.6, 0.6]), lambda index: masks[index], size=(1, 1), top=2)
        >>> round(torch.sigmoid(vote.logits).item(), 4)  # (0.9 * 0.9526 + 0.6 * 0.0474) / 1.5
        0.5905
    """
    check_range(top, "top", 1)
    check_range(min_region, "min_region", 0)
    voters = candidates_of(ious, iou_thresh)[:top]
    if not voters:
        return nothing_selected(ious, size)
    logits = torch.stack([decoded_logits(decode, index, size) for index in voters])  # (top, H, W)
    weights = ious[voters].to(logits).log().reshape(-1, 1, 1)
    inside = torch.logsumexp(weights + F.logsigmoid(logits), dim=0)
    outside = torch.logsumexp(weights + F.logsigmoid(-logits), dim=0)
    return cleaned_selection(inside - outside, voters[0], len(voters), min_region)
