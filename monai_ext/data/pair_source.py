# SPDX-License-Identifier: Apache-2.0
"""A pair of scans that can be read when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from monai.data import MetaTensor


@dataclass(frozen=True)
class PairSource:
    """What finds an affine map between two scans is given.

    Args:
        name: for messages.
        fixed_identity: of the fixed scan's files and of how they are read; another one, another scan.
        moving_identity: of the moving scan's.
        fixed: reads the fixed scan, (C, *axes), as the network gets it.
        moving: reads the moving scan.

    Example:
        >>> import torch
        >>> scan = MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.eye(4))
        >>> PairSource("a_to_b", "b", "a", lambda: scan, lambda: scan).fixed().shape
        torch.Size([1, 4, 4, 4])
    """

    name: str
    fixed_identity: Any
    moving_identity: Any
    fixed: Callable[[], MetaTensor]
    moving: Callable[[], MetaTensor]
