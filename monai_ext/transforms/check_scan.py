# SPDX-License-Identifier: Apache-2.0
"""Checks that a scan and its label are what training takes for granted."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.transforms.prepare_label import check_classes, merge_equal_channels, name_of

DOCTOR = "`python -m monai_ext doctor DIR` finds all such files and can repair them into a new folder"


class CheckScand(MapTransform):
    """Refuse what would spoil a run silently: NaN voxels, a label on another grid, classes that do not exist.

    It also gives pictures the number of channels that the network takes, where nothing is lost by it: grey becomes
    three equal channels, three equal channels become grey. Put it right after `LoadScand`, before anything moves
    the voxels. A label without any object is legal.

    Args:
        keys: of the images.
        label_key: of the label, None if there is none to check.
        num_classes: 1 for one object against background, n for class indices 0..n-1; None checks no values.
        in_channels: of the network, per slice; None takes any.

    Raises:
        InputError: naming the file, what is wrong, and the remedy.

    Example:
        >>> scan = {"image": torch.rand(1, 4, 5), "label": torch.ones(1, 4, 5)}
        >>> CheckScand(keys=["image"], label_key="label", num_classes=2, in_channels=3)(scan)["image"].shape
        torch.Size([3, 4, 5])
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str | None = None,
        num_classes: int | None = None,
        in_channels: int | None = None,
    ) -> None:
        super().__init__(keys)
        self.label_key = label_key
        self.num_classes = num_classes
        self.in_channels = in_channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            _check_finite(result[key])
            _check_affine(result[key])
            result[key] = _with_channels(result[key], self.in_channels)
            if self.label_key in result:
                _check_grid(result[key], result[self.label_key])
        if self.label_key in result:
            label = result[self.label_key]
            _check_finite(label)
            if self.num_classes is not None:
                check_classes(merge_equal_channels(label), self.num_classes)
        return result


def _check_finite(image: Tensor) -> None:
    bad = image.numel() - int(torch.isfinite(image).sum())
    if bad:
        raise InputError(f"{name_of(image)}: {bad} of {image.numel()} voxels are NaN or infinite; {DOCTOR}.")


def _check_affine(image: Tensor) -> None:
    if not isinstance(image, MetaTensor):
        return
    affine = image.affine
    if not bool(torch.isfinite(affine).all()) or abs(float(torch.linalg.det(affine[:3, :3]))) < 1e-12:
        raise InputError(f"{name_of(image)}: its affine says that voxels have no volume; {DOCTOR}.")


def _with_channels(image: Tensor, wanted: int | None) -> Tensor:
    found = image.shape[0]
    if isinstance(image, MetaTensor) and image.meta.get("palette"):
        raise InputError(f"{name_of(image)}: a picture with a palette; save it as grey or RGB.")
    if wanted is None or found == wanted:
        return image
    if (found, wanted) == (1, 3):
        return image.repeat(3, *[1] * (image.ndim - 1))
    if (found, wanted) == (3, 1) and bool((image == image[:1]).all()):
        return image[:1]
    raise InputError(
        f"{name_of(image)}: {found} channels, the network takes {wanted}; set in_channels={found}, or give each scan "
        f"{wanted} (a 4-D file: one volume per file; several modalities: a list of files)."
    )


def _check_grid(image: Tensor, label: Tensor) -> None:
    if image.shape[1:] != label.shape[1:]:
        raise InputError(
            f"{name_of(label)}: a label of {_sizes(label)} voxels for an image of {_sizes(image)} ({name_of(image)}); "
            f"draw or resample the label on the image's grid; {DOCTOR}."
        )
    if not (isinstance(image, MetaTensor) and isinstance(label, MetaTensor)) or image.ndim == 3:
        return
    distance = _largest_distance(image, label)
    voxel = float(torch.linalg.norm(image.affine[:3, :3], dim=0).min())
    if not distance <= 0.1 * voxel:
        raise InputError(
            f"{name_of(label)}: lies up to {distance:.3g} mm away from its image ({name_of(image)}), though of the "
            f"same size; one of the headers is wrong; {DOCTOR}."
        )


def _largest_distance(image: MetaTensor, label: MetaTensor) -> float:
    """Return how far a corner of the grid moves, in mm, when the label's affine takes the place of the image's."""
    corners = torch.tensor(np.stack(np.meshgrid(*[[0, size - 1] for size in image.shape[1:]]), -1).reshape(-1, 3))
    corners = torch.cat([corners, torch.ones(len(corners), 1)], dim=1).to(torch.float64).T  # (4, 8)
    moved = (image.affine.to(torch.float64) - label.affine.to(torch.float64)) @ corners
    return float(torch.linalg.norm(moved[:3], dim=0).max())


def _sizes(image: Tensor) -> str:
    return "x".join(str(size) for size in image.shape[1:])
