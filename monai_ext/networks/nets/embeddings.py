# SPDX-License-Identifier: Apache-2.0
"""What an embedding network returns: several embeddings by name, one of which stands for all."""

from __future__ import annotations

import torch
from torch import Tensor


class Embeddings(dict[str, Tensor]):
    """A dictionary of embeddings, ``local`` (B, C, *cells), ``global`` and maybe ``semantic``.

    Programs that expect one tensor of a network, such as ``monai.bundle verify_net_in_out``, find the shape and the
    type of the local embedding, which metadata.json calls ``pred``.

    Example:
        >>> found = Embeddings(local=torch.zeros(1, 8, 4, 16, 16), **{"global": torch.zeros(1, 8, 2, 2, 2)})
        >>> found.shape, sorted(found)
        (torch.Size([1, 8, 4, 16, 16]), ['global', 'local'])
    """

    @property
    def shape(self) -> torch.Size:
        """Shape of the local embedding."""
        return self["local"].shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the local embedding's numbers."""
        return self["local"].dtype
