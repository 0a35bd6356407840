# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates of a fused query-key-value projection (LoRA)."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class LoRAQKV(nn.Linear):
    """A fused query-key-value projection with low-rank updates of query and value.

    LoRA (Hu et al. 2022, https://arxiv.org/abs/2106.09685) on q and v, as is usual for Segment Anything. It is a
    linear layer itself, so the frozen weight keeps its name (``qkv.weight``) and published checkpoints load
    unchanged; only the four ``lora_*`` names are new. The second factor starts at zero: an untrained update changes
    nothing, bit for bit.

    Args:
        in_features: channels of the tokens.
        out_features: three times the channels of query, key and value each.
        rank: rank of both updates.
        alpha: the update is scaled by ``alpha / rank``; None means ``rank``, hence a scale of 1.
        bias: whether the frozen projection has a bias.

    Shape:
        (..., in_features) -> (..., out_features)

    Raises:
        ValueError: ``rank`` is not positive or ``out_features`` is not a multiple of 3.

    Example:
        >>> LoRAQKV(16, 48, rank=2)(torch.rand(1, 5, 16)).shape
        torch.Size([1, 5, 48])
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int = 4, alpha: float | None = None, bias: bool = True
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}.")
        if out_features % 3:
            raise ValueError(f"out_features must be a multiple of 3 (query, key, value), got {out_features}.")
        super().__init__(in_features, out_features, bias=bias)
        self.scale = (rank if alpha is None else alpha) / rank
        dim = out_features // 3
        self.lora_q_down = nn.Parameter(torch.empty(rank, in_features))
        self.lora_q_up = nn.Parameter(torch.zeros(dim, rank))
        self.lora_v_down = nn.Parameter(torch.empty(rank, in_features))
        self.lora_v_up = nn.Parameter(torch.zeros(dim, rank))
        nn.init.kaiming_uniform_(self.lora_q_down, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.lora_v_down, a=math.sqrt(5))

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int = 4, alpha: float | None = None) -> LoRAQKV:
        """Take over the weight and bias of ``linear`` (the same tensors, not copies)."""
        layer = cls(linear.in_features, linear.out_features, rank, alpha, bias=linear.bias is not None)
        layer.weight = linear.weight
        layer.bias = linear.bias
        return layer

    def forward(self, tokens: Tensor) -> Tensor:
        query = F.linear(F.linear(tokens, self.lora_q_down), self.lora_q_up)
        value = F.linear(F.linear(tokens, self.lora_v_down), self.lora_v_up)
        change = torch.cat([query, torch.zeros_like(query), value], dim=-1)
        return super().forward(tokens) + self.scale * change

    def merged(self) -> nn.Linear:
        """Return a plain linear layer that computes the same; this one is left as it was."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        query, value = self.lora_q_up @ self.lora_q_down, self.lora_v_up @ self.lora_v_down
        change = torch.cat([query, torch.zeros_like(query), value], dim=0)
        linear.weight = nn.Parameter((self.weight + self.scale * change).detach(), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return linear


def inject_lora(network: nn.Module, rank: int = 4, alpha: float | None = None) -> list[str]:
    """Replace every linear layer called ``qkv`` inside ``network`` by `LoRAQKV`; return their names.

    Raises:
        ValueError: there is no such layer.
    """
    names = [name for name, part in network.named_modules() if name.endswith("qkv") and isinstance(part, nn.Linear)]
    if not names:
        raise ValueError(f"{type(network).__name__} has no linear layer called qkv to adapt.")
    for name in names:
        _replace(network, name, LoRAQKV.from_linear(network.get_submodule(name), rank, alpha))  # type: ignore[arg-type]
    return names


def merge_lora(network: nn.Module) -> list[str]:
    """Replace every `LoRAQKV` inside ``network`` by the plain layer it amounts to; return their names."""
    found = [(name, part) for name, part in network.named_modules() if isinstance(part, LoRAQKV)]
    for name, part in found:
        _replace(network, name, part.merged())
    return [name for name, _ in found]


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, layer)
