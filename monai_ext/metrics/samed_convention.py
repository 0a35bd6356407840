# SPDX-License-Identifier: Apache-2.0
"""Dice and Hausdorff distance as SAMed's evaluation counts them, to compare with published tables."""

from __future__ import annotations

import numpy as np
from monai.utils import convert_to_numpy
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects
from torch import Tensor

SAMED_CONVENTION = (
    "As the published evaluations of TransUNet, SAMed and H-SAM count: a class that is predicted where the label has "
    "none scores Dice 1 and distance 0, one that is absent from the prediction Dice 0 and distance 0. Distances are in "
    "voxels, whatever their size: the 95th percentile of both directions together. Means are over cases, then over "
    "classes."
)


def samed_scores(
    prediction: Tensor | np.ndarray, truth: Tensor | np.ndarray, num_classes: int
) -> list[dict[str, float]]:
    """Score each foreground class of a volume as SAMed does (https://github.com/hitachinsk/SAMed).

    The convention comes from TransUNet and is in the tables of most papers on abdominal CT. It is not one to report by
    itself: a false object in a case that has none costs nothing (it earns a Dice of 1), a missed one costs no
    distance, and the distance depends on how thick the slices are. `monai_ext.metrics.segmentation_scores` is the
    honest one.

    Args:
        prediction: label map (1, *spatial), integer values.
        truth: label map of the same shape.
        num_classes: output channels of the network; 1 is one object against background.

    Returns:
        One dictionary per foreground class: ``class``, ``dice``, ``hd95_voxels``.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> truth = np.zeros((1, 8, 8, 8))
        >>> samed_scores(truth + 1, truth, num_classes=1)
        [{'class': 1, 'dice': 1.0, 'hd95_voxels': 0.0}]
    """
    predicted, true = (np.asarray(convert_to_numpy(values)) for values in (prediction, truth))
    if predicted.shape != true.shape:
        raise ValueError(f"prediction and label must have one shape, got {predicted.shape} and {true.shape}.")
    return [
        {"class": index, **_scores(predicted[0] == index, true[0] == index)} for index in range(1, max(num_classes, 2))
    ]


def _scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    if not predicted.any() or not true.any():
        return {"dice": float(predicted.any()), "hd95_voxels": 0.0}
    overlap, sizes = np.count_nonzero(predicted & true), np.count_nonzero(predicted) + np.count_nonzero(true)
    return {"dice": 2 * overlap / sizes, "hd95_voxels": _hd95(predicted, true)}


def _hd95(predicted: np.ndarray, true: np.ndarray) -> float:
    box = find_objects((predicted | true).astype(np.uint8))[0]  # nothing outside of it is nearer
    surfaces = [mask[box] & ~binary_erosion(mask[box]) for mask in (predicted, true)]
    one, other = (distance_transform_edt(~surface) for surface in surfaces)
    return float(np.percentile(np.concatenate([other[surfaces[0]], one[surfaces[1]]]), 95))
