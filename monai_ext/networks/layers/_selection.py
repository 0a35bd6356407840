# SPDX-License-Identifier: Apache-2.0
"""What the rules of `mask_selection` share: their result, the order of prompts, and logits that follow a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.layers.region_cleanup import clean_regions

EMPTY_LOGIT = -10.0  # everywhere, where no prompt is good enough
SIGN_LOGIT = 1e-3  # least magnitude of a logit whose sign was changed

Decode = Callable[[int], Tensor]


class Selection(NamedTuple):
    """The mask of an image, and how it came about.

    Attributes:
        logits: (H, W) float32; the mask is exactly where they are positive.
        index: of the prompt whose mask it is (the best of those that voted), -1 if none was good enough.
        decoded: how many masks were decoded.
        cleaned: whether the mask had small holes or islands. Where the clean-up changed a pixel, its logit has the
            other sign.
    """

    logits: Tensor
    index: int  # type: ignore[assignment]  # hides the method of tuples, for which a selection has no use
    decoded: int
    cleaned: bool


def check_range(value: float, name: str, least: float, greatest: float = float("inf")) -> None:
    """Refuse an option out of its range, ends included, and NaN."""
    if not least <= value <= greatest:
        rule = f"at least {least}" if greatest == float("inf") else f"in [{least}, {greatest}]"
        raise InputError(f"{name} must be {rule}, got {value}.")


def candidates_of(ious: Tensor, iou_thresh: float) -> list[int]:
    """Return the indices of the prompts above the threshold, best first and equal ones in their order."""
    check_range(iou_thresh, "iou_thresh", 0)
    if ious.ndim != 1:
        raise ValueError(f"ious must be (prompts,), one predicted IoU each, got {tuple(ious.shape)}; flatten them.")
    order = torch.argsort(ious, descending=True, stable=True)
    return order[ious[order] > iou_thresh].tolist()


def decoded_logits(decode: Decode, index: int, size: tuple[int, int]) -> Tensor:
    """Decode one mask (H, W) and make sure that it is one."""
    logits = decode(index)
    if tuple(logits.shape) != tuple(size):
        raise ValueError(
            f"decode({index}) must give logits of size {tuple(size)}, got {tuple(logits.shape)}; "
            "select one mask and drop the other axes."
        )
    return logits.float()


def cleaned_selection(logits: Tensor, index: int, decoded: int, min_region: int) -> Selection:
    """Clean a mask up, which is where logits are positive, and let the logits follow."""
    clean, changed = clean_regions(logits > 0, min_region)
    return Selection(with_signs(logits, clean), index, decoded, changed)


def with_signs(logits: Tensor, mask: Tensor) -> Tensor:
    """Change the sign of logits where it is not that of the mask."""
    magnitude = logits.abs().clamp(min=SIGN_LOGIT)
    return torch.where((logits > 0) == mask, logits, torch.where(mask, magnitude, -magnitude))


def nothing_selected(ious: Tensor, size: tuple[int, int]) -> Selection:
    """Return the selection for an image without any prompt above the threshold."""
    logits = torch.full(size, EMPTY_LOGIT, dtype=torch.float32, device=ious.device)
    return Selection(logits, index=-1, decoded=0, cleaned=False)
