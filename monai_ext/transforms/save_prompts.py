# SPDX-License-Identifier: Apache-2.0
"""Writing which prompt every slice got, beside the label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai_ext.files import write_json
from monai_ext.prompts import read_record
from monai_ext.transforms._case_file import CaseFiled
from monai_ext.transforms.prepare_label import name_of


class SavePromptsd(CaseFiled):
    """Write ``<case>_prompts.json`` beside the label map, whole or not at all.

    The file holds ``case``, ``plane``, ``prompt_source`` and ``slices``: for each slice that was segmented its
    ``index`` in the RAS-oriented volume (0 for a picture), ``prompt`` (self, null, box or points) and ``box``
    [x0, y0, x1, y1] in pixels of the upright slice, or null; with given points, ``points`` [[x, y, 1 or 0], ...].
    `KeepPromptsd` has to stand before `Invertd`. MONAI Label, whose client gets the record with the result, drops this
    transform as it is a `SaveImaged`.

    Args:
        keys: of the predictions.
        output_dir: folder to write into; made if it is not there.
        output_postfix: the same as of `SaveLabelMapd`.
        case_key: of the file name; the name of the scan where an item has none.

    Raises:
        ValueError: if a prediction has no record.

    Example:
        >>> SavePromptsd(keys=["pred"], output_dir="eval/predictions")(item)  # doctest: +SKIP
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            record = read_record(result[key])
            if record is None:
                raise ValueError(
                    f"{name_of(result[key])}: no record of prompts; use PromptedSliceInferer, and put KeepPromptsd "
                    "before Invertd."
                )
            source = name_of(result[key])
            path = self.path_of(result, source, "_prompts.json")
            write_json(path, {"case": self.case_of(result, source), **record})
        return result
