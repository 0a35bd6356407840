# SPDX-License-Identifier: Apache-2.0
"""Cleaning a mask of its small holes and small islands, as Segment Anything does it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

_TOUCHING = np.ones((3, 3), dtype=bool)  # corners count as touching


def clean_regions(mask: NDArray[np.bool_], min_area: float) -> tuple[NDArray[np.bool_], bool]:
    """Fill the holes, then drop the islands, of fewer than ``min_area`` pixels (both 8-connected).

    The rules are those of ``remove_small_regions`` of ``segment_anything``, which needs OpenCV: any connected part
    of the background is a hole, also one at the border; where all islands are small the largest stays, and the mask
    counts as changed.

    Args:
        mask: (H, W).
        min_area: in pixels.

    Returns:
        The clean mask (the given one where nothing is small) and whether something small was found.

    Raises:
        ValueError: if the mask is not a plane of booleans.

    Example:
        >>> mask = np.ones((4, 5), dtype=bool)
        >>> mask[1, 1] = False
        >>> clean, changed = clean_regions(mask, min_area=2)
        >>> bool(clean.all()), changed
        (True, True)
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"mask must be bool of shape (H, W), got {mask.dtype} of shape {mask.shape}.")
    holes, areas = _parts(~mask)
    small = areas < min_area
    filled = mask | _any_of(holes, small) if small.any() else mask
    islands, areas = _parts(filled)
    few = areas < min_area
    if not few.any():
        return filled, bool(small.any())
    return (_largest(islands, areas) if few.all() else _any_of(islands, ~few)), True


def _parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return the parts of a mask, numbered from 1, and the area of each."""
    parts, count = label(mask, structure=_TOUCHING)
    return parts, np.bincount(parts.ravel(), minlength=count + 1)[1:]


def _any_of(parts: NDArray[np.integer], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask of the chosen parts."""
    return np.concatenate([[False], chosen])[parts]


def _largest(parts: NDArray[np.integer], areas: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the largest part; of equal ones the first in OpenCV's order, which goes by blocks of 2 x 2 pixels."""
    rows, columns = np.nonzero(_any_of(parts, areas == areas.max()))
    first = np.lexsort((columns // 2, rows // 2))[0]
    return np.asarray(parts == parts[rows[first], columns[first]])
