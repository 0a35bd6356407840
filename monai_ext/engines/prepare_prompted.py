# SPDX-License-Identifier: Apache-2.0
"""From a batch to what a trainer hands to a network that wants more than an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch, default_prepare_batch
from torch import Tensor


class PreparePrompted(PrepareBatch):
    """Image and label as ever, and further entries of the batch as keyword arguments of the network.

    MONAI's `PrepareBatchExtraInput` wants each entry in each batch; here an entry that a data set does not give is
    left out, and an entry of truth values that are all the same becomes that one value, as a switch has to be.

    Args:
        arguments: name of the argument -> key of the batch.

    Raises:
        ValueError: by the call, for truth values that differ within a batch.

    Example:
        >>> prepare = PreparePrompted({"points": "point", "embedded": "embedded"})
        >>> batch = {"image": torch.ones(2, 1, 4, 4), "label": torch.ones(2, 1, 4, 4), "point": torch.zeros(2, 2)}
        >>> image, label, args, kwargs = prepare(batch)
        >>> args, sorted(kwargs)
        ((), ['points'])
    """

    def __init__(self, arguments: Mapping[str, str]) -> None:
        self.arguments = dict(arguments)

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
        image, label = default_prepare_batch(batchdata, device, non_blocking, **kwargs)
        given = {name: batchdata[key] for name, key in self.arguments.items() if key in batchdata}
        prepared = {name: _prepared(name, value, device, non_blocking) for name, value in given.items()}
        return image, label, (), prepared


def _prepared(name: str, value: Any, device: str | torch.device | None, non_blocking: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dtype is not torch.bool:
        return value.to(device=device, non_blocking=non_blocking)
    if bool(value.any()) != bool(value.all()):
        raise ValueError(f"{name} must be the same for all items of a batch, got {value.tolist()}.")
    return bool(value.all())
