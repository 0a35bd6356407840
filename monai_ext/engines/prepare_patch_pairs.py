# SPDX-License-Identifier: Apache-2.0
"""From a batch of patch pairs to what a trainer hands to network and loss."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor


class PreparePatchPairs(PrepareBatch):
    """The patches are the network's input; where they lie, and where something is to be learned, is the target.

    Args:
        keys: of the target, as the loss wants them; those that a batch does not have are left out.

    Example:
        >>> batch = {"image": torch.rand(4, 1, 8, 32, 32), "affine": torch.eye(4).repeat(4, 1, 1), "case": ["a"] * 4}
        >>> image, target = PreparePatchPairs()(batch)
        >>> image.shape, sorted(target)
        (torch.Size([4, 1, 8, 32, 32]), ['affine'])
    """

    def __init__(self, keys: tuple[str, ...] = ("affine", "body")) -> None:
        self.keys = tuple(keys)

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def moved(value: Tensor) -> Tensor:
            return value.to(device=device, non_blocking=non_blocking, **kwargs)

        return moved(batchdata["image"]), {key: moved(batchdata[key]) for key in self.keys if key in batchdata}
