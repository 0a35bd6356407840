# SPDX-License-Identifier: Apache-2.0
"""Small holes filled and small islands dropped, in the manner of Segment Anything's automatic mask generator."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


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
    pixels = mask.cpu().numpy()
    pixels, filled = _fill_holes(pixels, min_region)
    pixels, dropped = _drop_islands(pixels, min_region)
    if not (filled or dropped):
        return mask, False
    return torch.from_numpy(pixels).to(mask.device), True


def _fill_holes(mask: np.ndarray, min_region: int) -> tuple[np.ndarray, bool]:
    regions, areas = _regions(~mask)
    small = areas < min_region
    return (mask | small[regions], True) if small.any() else (mask, False)


def _drop_islands(mask: np.ndarray, min_region: int) -> tuple[np.ndarray, bool]:
    regions, areas = _regions(mask)
    small = areas < min_region
    if not small.any():
        return mask, False
    large = ~small
    large[0] = False  # background
    if not large.any():
        large[_largest(regions, areas)] = True
    return large[regions], True


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the regions from 1, and count their pixels; what is outside of them is 0 and never small."""
    regions, count = label(mask, _EIGHT_NEIGHBOURS)
    areas = np.bincount(regions.ravel(), minlength=count + 1)
    areas[0] = mask.size + 1
    return regions, areas


def _largest(regions: np.ndarray, areas: np.ndarray) -> int:
    """Find the largest region; of equal ones the first, in the order in which OpenCV numbers regions.

    That order is of 2 x 2 blocks of pixels, row by row, which hold one region each; SciPy's is of pixels.
    """
    rows, columns = np.nonzero((areas == areas[1:].max())[regions] & (regions > 0))
    first = np.lexsort((columns // 2, rows // 2))[0]
    return int(regions[rows[first], columns[first]])
