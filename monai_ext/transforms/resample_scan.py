# SPDX-License-Identifier: Apache-2.0
"""Scans brought to voxels of one size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Spacing
from monai.utils import ensure_tuple_rep


class ResampleScand(MapTransform):
    """Resample scans to a spacing, keeping their directions; each is placed by its own affine.

    MONAI's `Spacing` for dictionaries. MONAI's own `Spacingd` takes every key that begins with ``image_`` for metadata,
    and MONAI Label puts the text ``image_path`` there, so it cannot be used in a bundle's preprocessing. The first
    voxel stays where it is; axes that were not at right angles are made so, and the affine says how.

    Args:
        keys: of the scans, (C, *axes) `MetaTensor`.
        spacing: mm of the voxels along each axis, one number for all; None leaves scans as they are.
        mode: ``bilinear`` or ``nearest``, one for all keys or one each.
        allow_missing_keys: leave items without a key alone.

    Raises:
        ValueError: a spacing that is not positive.

    Example:
        >>> import torch
        >>> scan = MetaTensor(torch.rand(1, 5, 9, 9), affine=torch.diag(torch.tensor([3.0, 1.0, 1.0, 1.0])))
        >>> ResampleScand(keys=["image"], spacing=2.0)({"image": scan})["image"].shape
        torch.Size([1, 7, 5, 5])
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: float | Sequence[float] | None,
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        sides = [] if spacing is None else np.atleast_1d(np.asarray(spacing, dtype=float)).tolist()
        if any(not 0 < side < float("inf") for side in sides):
            raise ValueError(f"spacing must be positive (mm) or None, got {spacing}.")
        self.spacing = sides
        self.modes = dict(zip(self.keys, ensure_tuple_rep(mode, len(self.keys)), strict=True))
        # float32 halves the memory of a large CT; places are off by less than a ten-thousandth of a voxel
        self._resample = Spacing(pixdim=sides, dtype=np.float32) if sides else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            if self._resample is not None:
                result[key] = self._kept(result[key], self._resample(result[key], mode=self.modes[key]))
        return result

    @staticmethod
    def _kept(before: Any, after: Any) -> Any:
        """Give an interpolated scan its type back; what is 0 or 1 stays so."""
        return after.to(before.dtype) if isinstance(after, MetaTensor) else after
