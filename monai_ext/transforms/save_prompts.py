# SPDX-License-Identifier: Apache-2.0
"""Writing which prompt every slice got, beside the label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import SaveImaged

from monai_ext.files import write_json
from monai_ext.prompts import read_record
from monai_ext.scan_files import stem_of
from monai_ext.transforms.prepare_label import name_of


class SavePromptsd(SaveImaged):
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

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "",
        case_key: str = "case",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False, allow_missing_keys=allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.output_postfix = output_postfix
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            record = read_record(result[key])
            if record is None:
                raise ValueError(
                    f"{name_of(result[key])}: no record of prompts; use PromptedSliceInferer, and put KeepPromptsd "
                    "before Invertd."
                )
            case = str(result.get(self.case_key) or stem_of(name_of(result[key])))
            postfix = f"_{self.output_postfix}" if self.output_postfix else ""
            write_json(self.output_dir / f"{case}{postfix}_prompts.json", {"case": case, **record})
        return result
