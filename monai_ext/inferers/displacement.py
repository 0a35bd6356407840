# SPDX-License-Identifier: Apache-2.0
"""The displacement of a pair of scans by a registration network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor


class DisplacementInferer(Inferer):
    """Give a pair that lies on one grid to the network, whole.

    Args:
        amp: run it in mixed precision, as training does.

    Shape:
        inputs (2 C, *spatial), the moving scan's channels and then the fixed one's, maybe with a batch of one before
        them -> displacement (axes, *spatial) in voxels, float32.

    Example:
        >>> DisplacementInferer()(torch.rand(2, 4, 4, 4), torch.nn.Conv3d(2, 3, 1)).shape
        torch.Size([3, 4, 4, 4])
    """

    def __init__(self, amp: bool = False) -> None:
        self.amp = amp

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return the displacement; further entries of the pair are not looked at."""
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        plain = plain if plain.ndim == 5 else plain[None]
        lower = torch.float16 if plain.device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
        with torch.no_grad(), torch.autocast(plain.device.type, lower) if self.amp else nullcontext():
            displacement: Tensor = network(plain)[0]
        return displacement.float()
