# SPDX-License-Identifier: Apache-2.0
"""Small holes filled and small islands dropped, in the manner of Segment Anything's automatic mask generator."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ext import regions


def clean_regions(mask: Tensor, min_region: int) -> tuple[Tensor, bool]:
    """Fill the holes of a mask that are smaller than ``min_region`` pixels, then drop its islands that are.

    Equal to ``remove_small_regions`` of Segment Anything (https://arxiv.org/abs/2304.02643), for holes and then for
    islands, but with SciPy alone. Its conventions are worth knowing: regions touch at corners too; a hole is any
    small region of background, also one at the border of the image; if all islands are small the largest stays, and
    the mask counts as changed even if it is the only one.

    Args:
        mask: (H, W) bool, on any device; the work is done on the CPU.
        min_region: area in pixels from which a region is left alone; 0 and 1 leave every mask as it is.

    Returns:
        The clean mask (H, W) bool on the device of ``mask``, and whether there was a small region.

    Example:
        >>> mask = torch.zeros(8, 8, dtype=torch.bool)
        >>> mask[1:6, 1:6] = True
        >>> mask[3, 3], mask[7, 7] = False, True  # a hole and an island of one pixel
        >>> clean, changed = clean_regions(mask, min_region=2)
        >>> int(mask.sum()), int(clean.sum()), changed
        (25, 25, True)
        >>> bool(clean[3, 3]), bool(clean[7, 7])
        (True, False)
    """
    pixels, changed = regions.clean_regions(mask.cpu().numpy(), min_region)
    return (torch.from_numpy(pixels).to(mask.device), True) if changed else (mask, False)
