# SPDX-License-Identifier: Apache-2.0
"""What DeSAM's published evaluation does to a prediction and its label before it scores them."""

from __future__ import annotations

import numpy as np
from monai.utils import convert_to_numpy
from torch import Tensor

from monai_ext.regions import clean_regions

PUBLISHED = (
    "Holes and islands of less than 1000 of 65536 pixels are cleaned away in each predicted slice, 50 of 256 pixels at "
    "each border of it become background, and only the slices that contain truth, without the last, are scored."
)
Maps = tuple[np.ndarray, np.ndarray]


def published_protocol(
    prediction: Tensor | np.ndarray,
    label: Tensor | np.ndarray,
    axis: int | None,
    border: float = 50 / 256,
    min_region: float = 1000 / 65536,
    drop_last: bool = True,
) -> Maps | None:
    """Prepare label maps as the published evaluation of DeSAM does (https://github.com/yifangao112/DeSAM).

    Each predicted slice is cleaned (`monai_ext.regions.clean_regions`), as the published mask generator does last;
    then its border becomes background, wherever the organ of the data set never is. Of the volume only the slices
    with truth are kept, and of these the last is dropped, as the published loop over slices does. All three favour
    the score: an honest one comes from the whole volume as it was predicted.

    One thing differs: the published code does this on slices resized to 256 x 256 pixels, this on the label's own
    grid, with the same shares of it. The slices that are left are put together, so that distances across a gap
    between them are too short.

    Args:
        prediction: label map (1, X, Y, Z), or (1, X, Y) of a picture.
        label: of the same shape.
        axis: along which slices are stacked, 0 to 2; None for a picture, which is one slice and is never dropped.
        border: share of a slice's width (and height) at each side of it.
        min_region: share of a slice's area; smaller holes are filled and smaller islands dropped, class by class.
        drop_last: whether the last slice with truth is dropped.

    Returns:
        Prediction and label with the slices that are left, or None when none is: without truth there is nothing to
        score in this way.

    Raises:
        ValueError: if the shapes differ or the axis is none of theirs.

    Example:
        >>> label = np.zeros((1, 8, 8, 3), dtype=np.uint8)
        >>> label[0, 3:5, 3:5, 1:] = 1
        >>> prediction, truth = published_protocol(np.ones_like(label), label, axis=2)
        >>> prediction.shape, int(prediction.sum())
        ((1, 8, 8, 1), 16)
    """
    predicted, true = _array(prediction), _array(label)
    if predicted.shape != true.shape or true.ndim != (3 if axis is None else 4) or true.shape[0] != 1:
        raise ValueError(
            f"prediction and label must both be (1, X, Y, Z), or (1, X, Y) with axis None, got {predicted.shape} and "
            f"{true.shape} with axis {axis}."
        )
    if axis not in (None, 0, 1, 2):
        raise ValueError(f"axis must be 0, 1, 2 or None, got {axis}.")
    if axis is None:
        return (_as_published(predicted[0], border, min_region)[None], true) if true.any() else None
    predicted, true = (np.moveaxis(volume[0], axis, 0) for volume in (predicted, true))
    kept = np.flatnonzero(true.any(axis=(1, 2)))
    kept = kept[:-1] if drop_last else kept
    if not kept.size:
        return None
    slices = np.stack([_as_published(predicted[index], border, min_region) for index in kept])
    return np.moveaxis(slices, 0, axis)[None], np.moveaxis(true[kept], 0, axis)[None]


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor) and values.is_floating_point():
        values = values.float()  # numpy has no bfloat16
    return np.asarray(convert_to_numpy(values))


def _as_published(plane: np.ndarray, border: float, min_region: float) -> np.ndarray:
    """Clean each class of a slice (H, W), holes only where there is background, and empty the border."""
    cleaned = np.zeros_like(plane)
    for index in np.unique(plane[plane > 0]):
        mask, _ = clean_regions(plane == index, min_region * plane.size)
        cleaned[mask & ((plane == index) | (plane == 0))] = index
    inside = [_inside(size, border) for size in plane.shape]
    return np.where(inside[0][:, None] & inside[1], cleaned, 0)


def _inside(size: int, border: float) -> np.ndarray:
    """Say of each pixel of a line whether its centre is inside the border."""
    centres = (np.arange(size) + 0.5) / size
    return (centres >= border) & (centres <= 1 - border)
