# SPDX-License-Identifier: Apache-2.0
"""Whole scans, for validation and inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.data import Dataset

from monai_ext.errors import find_input_error


class ScanDataset(Dataset):
    """One item per scan, transformed when asked for; what a user can mend is raised as the one line it is.

    MONAI wraps the error of a transform, and a data loader's worker hands on nothing but the outermost one.

    Args:
        data: items, as `load_datalist` gives them.
        transform: what to do with an item.

    Raises:
        InputError: by an item whose files are missing, broken or do not fit together.

    Example:
        >>> ScanDataset([{"image": "a.png"}], transform=lambda item: item["image"])[0]
        'a.png'
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable | None = None) -> None:
        super().__init__(data, transform)

    def _transform(self, index: int) -> Any:
        try:
            return super()._transform(index)
        except Exception as error:
            raise find_input_error(error) or error from None
