# SPDX-License-Identifier: Apache-2.0
"""A point on an object or beside it, drawn from the label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable


class RandPointPromptd(Randomizable, MapTransform):
    """Draw the prompt that DeSAM is trained with (https://arxiv.org/abs/2306.00499): one point of each image.

    It lies beside all objects with probability ``negatives / (negatives + 1)``, else on one of them: each object of
    the image has the same chance, and each of its pixels. Where there is no such pixel it is the other kind. The item
    gets ``point``, float32 (2,), x and y as indices of the label's pixels.

    Args:
        keys: of the label, (1, H, W) class indices.
        negatives: points beside the objects for each one on them; the published code and paper have 1.
        point_key: of the result.

    Raises:
        ValueError: ``negatives`` is negative.

    Example:
        >>> label = torch.zeros(1, 3, 4)
        >>> label[0, 2, 1] = 1
        >>> RandPointPromptd(keys=["label"], negatives=0)({"label": label})["point"]
        tensor([1., 2.])
    """

    def __init__(self, keys: KeysCollection, negatives: float = 1.0, point_key: str = "point") -> None:
        MapTransform.__init__(self, keys)
        if negatives < 0:
            raise ValueError(f"negatives must be at least 0, got {negatives}.")
        self.negatives = negatives
        self.point_key = point_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            result[self.point_key] = torch.from_numpy(self._draw(np.asarray(result[key][0])))
        return result

    def _draw(self, label: np.ndarray) -> np.ndarray:
        beside = self.R.random() * (self.negatives + 1) >= 1
        objects = np.unique(label[label > 0])
        value = objects[self.R.randint(len(objects))] if len(objects) else 0
        wanted = label == (0 if beside else value)
        if not wanted.any():
            wanted = label == (value if beside else 0)
        places = np.flatnonzero(wanted)
        row, column = divmod(int(places[self.R.randint(len(places))]), label.shape[1])
        return np.array([column, row], dtype=np.float32)
