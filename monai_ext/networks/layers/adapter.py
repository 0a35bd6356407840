# SPDX-License-Identifier: Apache-2.0
"""The adapter that SAM2-UNet puts before each frozen transformer block."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor


class PromptAdapter(nn.Sequential):
    """Two linear layers, each followed by GELU; its output is added to the tokens before a frozen block.

    The paper's "adapter" (SAM2-UNet, https://arxiv.org/abs/2408.08870, section 3.1). The second GELU and PyTorch's
    default initialisation are the published ones, so an untrained adapter is not an identity unless
    ``zero_init`` is set.

    Args:
        dim: channels of the tokens, which are the last axis.
        hidden_dim: channels inside the bottleneck.
        zero_init: start as "no change": the last layer is zero. GELU's slope at zero is 1/2, so it still learns.

    Shape:
        (..., dim) -> (..., dim), to be added by the caller.

    Raises:
        ValueError: ``hidden_dim`` is not positive.

    Example:
        >>> import torch
        >>> PromptAdapter(dim=64, hidden_dim=8)(torch.rand(2, 7, 7, 64)).shape
        torch.Size([2, 7, 7, 64])
    """

    def __init__(self, dim: int, hidden_dim: int = 32, zero_init: bool = False) -> None:
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim must be at least 1, got {hidden_dim}.")
        up = nn.Linear(hidden_dim, dim)
        if zero_init:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        super().__init__(nn.Linear(dim, hidden_dim), nn.GELU(), up, nn.GELU())


class AdaptedBlock(nn.Module):
    """A transformer block whose input is first changed by an adapter: ``block(x + adapter(x))``.

    The two parts keep the published names, ``block`` and ``prompt_learn``.

    Args:
        block: any module that maps tokens to tokens.
        adapter: module from tokens to a change of the same shape; None leaves the block as it is.

    Example:
        >>> import torch
        >>> AdaptedBlock(nn.Identity(), PromptAdapter(8))(torch.rand(1, 4, 4, 8)).shape
        torch.Size([1, 4, 4, 8])
    """

    def __init__(self, block: nn.Module, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.block = block
        self.prompt_learn = adapter

    def forward(self, tokens: Tensor) -> Tensor:
        if self.prompt_learn is not None:
            tokens = tokens + self.prompt_learn(tokens)
        return self.block(tokens)
