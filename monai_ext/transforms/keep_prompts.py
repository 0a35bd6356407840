# SPDX-License-Identifier: Apache-2.0
"""The record of prompts, carried past MONAI's inversion and to the client of a label server."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_ext.prompts import RECORD, read_record, with_meta


class KeepPromptsd(MapTransform):
    """Hand on which prompts a prediction was made with; put it first in the postprocessing.

    `PromptedSliceInferer` leaves its record in the prediction's metadata. MONAI's `Invertd` replaces these by the
    image's, so the record is copied there; and MONAI Label sends the item's ``result`` to its client with the label
    map, so the record goes there too, as ``result["prompts"]``. Predictions without a record pass.

    Args:
        keys: of the predictions.
        image_key: of the image, ``orig_keys`` of `Invertd`.

    Example:
        >>> import torch
        >>> pred = with_meta(torch.zeros(1, 4, 4), {"prompts": '{"plane": "axial", "slices": []}'})
        >>> KeepPromptsd(keys=["pred"])({"image": torch.rand(1, 4, 4), "pred": pred})["result"]
        {'prompts': {'plane': 'axial', 'slices': []}}
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            record = read_record(result[key])
            if record is None:
                continue
            if self.image_key in result:
                result[self.image_key] = with_meta(result[self.image_key], {RECORD: result[key].meta[RECORD]})
            result["result"] = {**(result.get("result") or {}), RECORD: record}
        return result
