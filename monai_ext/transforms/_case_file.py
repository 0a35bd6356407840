# SPDX-License-Identifier: Apache-2.0
"""What the transforms that write one file a case have in common: where it lies and how it is called."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import SaveImaged

from monai_ext.scan_files import stem_of


class CaseFiled(SaveImaged):
    """Base of transforms that write ``<output_dir>/<case>[_<output_postfix>]<ending>``.

    It is a `SaveImaged` so that MONAI Label, which writes results itself, drops it.

    Args:
        keys: of the predictions.
        output_dir: folder to write into; made if it is not there.
        output_postfix: added to the name with an underscore.
        case_key: of the file name; the name of the scan where an item has none.
        allow_missing_keys: leave items without a prediction alone.
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

    def path_of(self, data: Mapping[Hashable, Any], source: str | Path, ending: str) -> Path:
        """Return the file for the case of ``data``, whose scan is ``source``."""
        postfix = f"_{self.output_postfix}" if self.output_postfix else ""
        return self.output_dir / f"{self.case_of(data, source)}{postfix}{ending}"

    def case_of(self, data: Mapping[Hashable, Any], source: str | Path) -> str:
        """Return the name of the case."""
        return str(data.get(self.case_key) or stem_of(source))
