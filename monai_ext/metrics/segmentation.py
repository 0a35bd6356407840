# SPDX-License-Identifier: Apache-2.0
"""Overlap and surface scores of one predicted label map, class by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.utils import convert_to_numpy
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import KDTree
from torch import Tensor

from monai_ext.errors import InputError

SCORES = ("dice", "iou", "hd95_mm", "asd_mm", "nsd")
EMPTY_BOTH = "A class absent from truth and prediction scores dice = iou = nsd = 1 and distances of 0 mm."
EMPTY_ONE = (
    "A class present in only one of truth and prediction scores dice = iou = nsd = 0 and distances equal to the "
    "diagonal of the volume in mm."
)


def segmentation_scores(
    prediction: Tensor | np.ndarray,
    truth: Tensor | np.ndarray,
    num_classes: int,
    spacing: Sequence[float],
    tolerance_mm: float = 1.0,
) -> list[dict[str, float]]:
    """Score each foreground class of a label map against the true one.

    Dice and IoU come from exact voxel counts. The distances are those of MONAI's ``compute_hausdorff_distance``
    (95th percentile, the larger of the two directions), ``compute_average_surface_distance`` (symmetric) and
    ``compute_surface_dice``, from one search for the nearest surface instead of three, and none where the two surfaces
    coincide. A volume of one slice is scored as the 2-D image that it is; otherwise each of its voxels would count as
    surface.

    Args:
        prediction: label map (1, *spatial) or (*spatial), with integer values in any dtype.
        truth: label map of the same spatial shape.
        num_classes: output channels of the network: 1 stands for one object (values 0 and 1), n for the classes
            0 .. n - 1. Class 0 is background and is not scored.
        spacing: size of a voxel in mm, one number for each of the 2 or 3 spatial axes.
        tolerance_mm: how far apart two surfaces may be for the normalised surface Dice (``nsd``) to call them equal.

    Returns:
        One dictionary per foreground class: ``class``, ``dice``, ``iou``, ``hd95_mm``, ``asd_mm``, ``nsd``,
        ``truth_voxels``, ``predicted_voxels``. What empty masks count as is said by `EMPTY_BOTH` and `EMPTY_ONE`.

    Raises:
        InputError: when the shapes differ, a value is not a whole number, or a value is not one of the classes.

    Example:
        >>> truth = torch.zeros(1, 8, 8)
        >>> truth[:, 2:6, 2:6] = 1
        >>> segmentation_scores(truth, truth, num_classes=1, spacing=(1.0, 1.0))[0]["dice"]
        1.0
    """
    spacing = tuple(float(size) for size in spacing)
    labels = max(num_classes, 2)
    predicted = _label_map(prediction, labels, len(spacing), "prediction")
    true = _label_map(truth, labels, len(spacing), "label")
    if predicted.shape != true.shape:
        raise InputError(
            f"the prediction's spatial shape {predicted.shape} must equal the label's, {true.shape}; "
            "bring both to one grid before scoring."
        )
    predicted, true, spacing = _without_single_slice(predicted, true, spacing)
    confusion = np.bincount(true.ravel().astype(np.intp) * labels + predicted.ravel(), minlength=labels**2)
    confusion = confusion.reshape(labels, labels)
    diagonal = math.hypot(*(count * size for count, size in zip(true.shape, spacing, strict=True)))
    boxes = _joint_boxes(predicted, true, labels)
    rows = []
    for index in range(1, labels):
        overlap, size_true, size_predicted = (
            int(count) for count in (confusion[index, index], confusion[index].sum(), confusion[:, index].sum())
        )
        row = {"class": index, **_overlap_scores(overlap, size_true, size_predicted)}
        if size_true and size_predicted:
            crop = boxes[index - 1]
            row.update(_surface_scores(predicted[crop] == index, true[crop] == index, spacing, tolerance_mm))
        else:
            far = diagonal if size_true or size_predicted else 0.0
            row.update(hd95_mm=far, asd_mm=far, nsd=row["dice"])
        rows.append({**row, "truth_voxels": size_true, "predicted_voxels": size_predicted})
    return rows


def _label_map(values: Tensor | np.ndarray, labels: int, spatial_dims: int, name: str) -> np.ndarray:
    """Return ``values`` as (*spatial) of the smallest integer type, or say what is wrong with them."""
    if isinstance(values, Tensor) and values.is_floating_point():
        values = values.float()  # numpy has no bfloat16
    array = np.asarray(convert_to_numpy(values))
    if array.ndim == spatial_dims + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != spatial_dims:
        raise InputError(
            f"the {name} must be a label map of shape (1, *spatial) with {spatial_dims} spatial axes, got "
            f"{tuple(array.shape)}; turn scores into labels first (argmax, or a threshold for one object)."
        )
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (low >= 0 and high < labels):  # written so that NaN fails too
        raise InputError(f"the {name} holds values {low} to {high}; the classes are 0 to {labels - 1}.")
    whole = array.astype(np.min_scalar_type(labels - 1))
    if array.dtype.kind == "f" and not np.array_equal(whole, array):
        raise InputError(f"the {name} must hold whole numbers, one per class; it holds fractions.")
    return whole


def _without_single_slice(
    predicted: np.ndarray, true: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Drop the axis of length one of a volume that has a single slice."""
    if true.ndim != 3 or 1 not in true.shape:
        return predicted, true, spacing
    axis = true.shape.index(1)
    return predicted.squeeze(axis), true.squeeze(axis), spacing[:axis] + spacing[axis + 1 :]


def _joint_boxes(predicted: np.ndarray, true: np.ndarray, labels: int) -> list[tuple[slice, ...]]:
    """Return for each foreground class the smallest box that holds it in both maps.

    Cropping to it is exact: a voxel at the end of an array counts as surface, as it does inside a larger array,
    where background follows it.
    """
    whole = tuple(slice(0, size) for size in true.shape)
    boxes = []
    for one, other in zip(find_objects(predicted, labels - 1), find_objects(true, labels - 1), strict=True):
        one, other = one or other or whole, other or one or whole
        boxes.append(tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)))
    return boxes


def _overlap_scores(overlap: int, size_true: int, size_predicted: int) -> dict[str, float]:
    total = size_true + size_predicted
    if total == 0:
        return {"dice": 1.0, "iou": 1.0}
    return {"dice": 2 * overlap / total, "iou": overlap / (total - overlap)}


def _surface_scores(
    predicted: np.ndarray, true: np.ndarray, spacing: tuple[float, ...], tolerance_mm: float
) -> dict[str, float]:
    """Return the three surface scores of two masks (*spatial) that both hold something."""
    surfaces = [mask & ~binary_erosion(mask) for mask in (predicted, true)]
    directions = [_distances(surfaces[0], surfaces[1], spacing), _distances(surfaces[1], surfaces[0], spacing)]
    both = np.concatenate(directions)
    return {
        "hd95_mm": max(float(np.percentile(distances, 95)) for distances in directions),
        "asd_mm": float(both.mean()),
        "nsd": float((both <= tolerance_mm).mean()),
    }


def _distances(surface: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Return for each voxel of ``surface`` its distance in mm to the nearest voxel of ``other``."""
    apart = np.argwhere(surface & ~other)  # the rest lies on both surfaces: half of the work in a good segmentation
    distances = np.zeros(np.count_nonzero(surface))
    if len(apart):
        tree = KDTree(np.argwhere(other) * spacing, balanced_tree=False)
        distances[: len(apart)] = tree.query(apart * spacing, workers=torch.get_num_threads())[0]
    return distances
