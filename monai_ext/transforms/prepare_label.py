# SPDX-License-Identifier: Apache-2.0
"""Label files as class indices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_ext.errors import InputError


class PrepareLabeld(MapTransform):
    """Turn labels into class indices (1, X, Y[, Z]) uint8.

    With one class, masks may be 0/1, soft (0 to 1) or pictures in black and white (0 to 255), cut in the middle.
    With more, the values are the indices. Pictures that were saved as colours are merged where they are grey.

    Args:
        keys: of the labels; absent ones are passed over.
        num_classes: 1 for one object against background, n for class indices 0..n-1.
        object_values: for one class, the values that are the object, such as one organ of many or two zones that
            count as one; all others are background.
        class_values: for several classes, the value that is class 1, 2, ..., such as eight organs of thirteen; all
            others are background.

    Raises:
        InputError: if the values are no such classes or the channels differ.
        ValueError: ``object_values`` with several classes, or ``class_values`` that are not one for each.

    Example:
        >>> PrepareLabeld(keys=["label"], num_classes=1)({"label": torch.tensor([[[0.0, 255.0]]])})["label"]
        tensor([[[0, 1]]], dtype=torch.uint8)
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int,
        object_values: Sequence[int] | None = None,
        class_values: Sequence[int] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if not 1 <= num_classes <= 256:
            raise ValueError(f"num_classes must be in [1, 256], got {num_classes}.")
        if object_values is not None and num_classes != 1:
            raise ValueError(f"object_values make one object, so num_classes must be 1, got {num_classes}.")
        if class_values is not None and (len(class_values) != num_classes - 1 or num_classes == 1):
            raise ValueError(
                f"class_values must be one for each of the classes 1 to num_classes - 1 of several, got "
                f"{list(class_values)} with num_classes {num_classes}."
            )
        self.num_classes = num_classes
        self.object_values = object_values
        self.class_values = class_values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            label = merge_equal_channels(result[key])
            if self.object_values is not None:
                label = torch.isin(label, label.new_tensor(self.object_values)).to(torch.float32)
            if self.class_values is not None:
                label = _renumbered(label, self.class_values)
            check_classes(label, self.num_classes)
            if self.num_classes == 1:
                label = label > (127.5 if float(label.max()) > 1 else 0.5)
            result[key] = label.to(torch.uint8)
        return result


def name_of(image: Tensor) -> str:
    """Return the file that an image or label was read from."""
    return str(image.meta.get("filename_or_obj", "scan")) if isinstance(image, MetaTensor) else "scan"


def merge_equal_channels(label: Tensor) -> Tensor:
    """Return the label's single channel; a grey picture saved as RGB has three equal ones."""
    if label.shape[0] == 1:
        return label
    if bool((label == label[:1]).all()):
        return label[:1]
    raise InputError(
        f"{name_of(label)}: a label with {label.shape[0]} different channels; save class indices as a grey picture or "
        "a volume with one value per voxel."
    )


def check_classes(label: Tensor, num_classes: int) -> None:
    """Refuse values that are no classes.

    Raises:
        InputError: naming the file, the values and the remedy.
    """
    lowest, highest = float(label.min()), float(label.max())
    if num_classes == 1:
        _check_mask(label, lowest, highest)
        return
    if lowest < 0 or highest > num_classes - 1 or bool((label != label.round()).any()):
        values = torch.unique(label.as_tensor() if isinstance(label, MetaTensor) else label)
        raise InputError(
            f"{name_of(label)}: values {_some(values)}, but {num_classes} classes are 0 to {num_classes - 1}; set "
            "num_classes, or renumber the label."
        )


def _renumbered(label: Tensor, values: Sequence[int]) -> Tensor:
    """Give class 1 to the first value, and so on; from the label as it was, so that no class is renumbered twice."""
    classes = torch.zeros_like(label)
    for index, value in enumerate(values, start=1):
        classes[label == value] = index
    return classes


def _check_mask(label: Tensor, lowest: float, highest: float) -> None:
    if lowest < 0 or 1 < highest <= 127.5 or highest > 255:
        raise InputError(
            f"{name_of(label)}: values from {lowest:g} to {highest:g}, but one object against background is 0/1 or "
            f"0/255; set num_classes={max(int(highest), 1) + 1} for several classes, or make a mask."
        )


def _some(values: Tensor, limit: int = 6) -> str:
    shown = ", ".join(f"{float(value):g}" for value in values[:limit])
    return shown + (f" ... {float(values[-1]):g}" if len(values) > limit else "")
