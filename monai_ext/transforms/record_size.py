# SPDX-License-Identifier: Apache-2.0
"""How large an image was before it was padded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform


class RecordSized(MapTransform):
    """Put the spatial size that an image has at this point into the item, as ``size_key``, int64 (dims,).

    Images of a batch are padded to one size. A network that is told the sizes can treat padding as such.

    Args:
        keys: of the image (C, *spatial).
        size_key: of the result.
        allow_missing_keys: do nothing where there is no image.

    Example:
        >>> RecordSized(keys=["image"])({"image": torch.zeros(3, 4, 5)})["inner"]
        tensor([4, 5])
    """

    def __init__(self, keys: KeysCollection, size_key: str = "inner", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size_key = size_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            result[self.size_key] = torch.tensor(result[key].shape[1:])
        return result
