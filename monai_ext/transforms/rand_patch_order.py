# SPDX-License-Identifier: Apache-2.0
"""Which patches of an image a masked autoencoder is shown, drawn with the image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Randomizable, Transform


class RandPatchOrderd(Randomizable, Transform):
    """Give an item a random order of its patches, of which a `MaskedAutoencoder` sees the first and hides the rest.

    Drawn here and not by the network, it depends on what seeds the data set's items alone: neither on the size of
    batches nor on the number of processes, and held-out images may hide the same patches every time.

    Args:
        count: patches of an image.
        key: of the result, int64 (count,), the indices 0 to count - 1.

    Raises:
        ValueError: there is no patch.

    Example:
        >>> RandPatchOrderd(4)({})["order"].sort().values
        tensor([0, 1, 2, 3])
    """

    def __init__(self, count: int, key: str = "order") -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}.")
        self.count = count
        self.key = key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, self.key: torch.from_numpy(self.R.permutation(self.count))}
