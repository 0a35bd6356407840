# SPDX-License-Identifier: Apache-2.0
"""The last step for MONAI Label, whose writer takes a picture with a channel axis for a volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import MapTransform


class FlattenPictured(MapTransform):
    """Drop the channel axis of a picture's label map (1, X, Y); a volume's (1, X, Y, Z) stays.

    MONAI Label 0.8.5 drops that axis of volumes only, and writes pictures as one-pixel-thin volumes. Put it last
    in the postprocessing of ``inference.json``.

    Args:
        keys: of the label maps.

    Example:
        >>> import torch
        >>> FlattenPictured(keys=["pred"])({"pred": torch.zeros(1, 5, 6)})["pred"].shape
        torch.Size([5, 6])
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            if result[key].ndim == 3 and result[key].shape[0] == 1:
                result[key] = result[key][0]
        return result
