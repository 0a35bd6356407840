# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates of a fused query-key-value projection (LoRA)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.state_match import check

FACTORS = ("lora_q_down", "lora_q_up", "lora_v_down", "lora_v_up")
REMEDY = "use the rank, the blocks and the encoder that these low-rank updates were trained with."


class LowRank(NamedTuple):
    """Factors of the updates of query and value: down (rank, in_features), up (in-and-out channels, rank)."""

    q_down: Tensor
    q_up: Tensor
    v_down: Tensor
    v_up: Tensor

    def project(self, tokens: Tensor, base: Tensor, scale: float) -> Tensor:
        """Add both updates of ``tokens`` (..., in_features) to their projection ``base`` (..., 3 * dim)."""
        rank = self.q_down.shape[0]
        hidden = F.linear(tokens, torch.cat([self.q_down, self.v_down]))  # (..., 2 * rank)
        query, value = F.pad(self.q_up, (0, rank)), F.pad(self.v_up, (rank, 0))
        up = torch.cat([query, torch.zeros_like(query), value])  # (3 * dim, 2 * rank)
        # one pass over the output; zeros for the key and a sum of the size of the output would be three more
        total = torch.addmm(base.reshape(-1, up.shape[0]), hidden.reshape(-1, 2 * rank), up.T, alpha=scale)
        return total.reshape(base.shape)

    def change(self) -> Tensor:
        """Return the two updates as one change of the fused weight: (3 * dim, in_features)."""
        query = self.q_up @ self.q_down
        return torch.cat([query, torch.zeros_like(query), self.v_up @ self.v_down])

    @staticmethod
    def initial(in_features: int, out_features: int, rank: int) -> LowRank:
        """Return new factors whose product is zero; the first one is random, so that the second can learn.

        Raises:
            ValueError: ``rank`` is not positive or ``out_features`` is not a multiple of 3.
        """
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}.")
        if out_features % 3:
            raise ValueError(f"out_features must be a multiple of 3 (query, key, value), got {out_features}.")
        down = [nn.init.kaiming_uniform_(torch.empty(rank, in_features), a=math.sqrt(5)) for _ in range(2)]
        return LowRank(down[0], torch.zeros(out_features // 3, rank), down[1], torch.zeros(out_features // 3, rank))


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

    _unfolded: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, rank: int = 4, alpha: float | None = None, bias: bool = True
    ) -> None:
        factors = LowRank.initial(in_features, out_features, rank)
        super().__init__(in_features, out_features, bias=bias)
        self.scale = (rank if alpha is None else alpha) / rank
        self.lora_q_down, self.lora_q_up, self.lora_v_down, self.lora_v_up = map(nn.Parameter, factors)
        self.register_buffer("_unfolded", None, persistent=False)  # the weight without updates, while they are folded

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int = 4, alpha: float | None = None) -> LoRAQKV:
        """Take over the weight and bias of ``linear`` (the same tensors, not copies)."""
        layer = cls(linear.in_features, linear.out_features, rank, alpha, bias=linear.bias is not None)
        layer.weight = linear.weight
        layer.bias = linear.bias
        return layer

    @property
    def factors(self) -> LowRank:
        """The four factors."""
        return LowRank(self.lora_q_down, self.lora_q_up, self.lora_v_down, self.lora_v_up)

    def forward(self, tokens: Tensor) -> Tensor:
        base = super().forward(tokens)
        return base if self._unfolded is not None else self.factors.project(tokens, base, self.scale)

    def merged_weight(self) -> Tensor:
        """Return the weight (out_features, in_features) with both updates in it, without their gradients."""
        weight = self.weight.detach()
        return weight.clone() if self._unfolded is not None else weight + self.scale * self.factors.change().detach()

    def merged(self) -> nn.Linear:
        """Return a plain linear layer that computes the same; this one is left as it was."""
        return plain_linear(self.merged_weight(), self.bias)

    def fold(self) -> None:
        """Put the updates into the weight, in place, so that they cost nothing; for inference only.

        The state dict stays that of the unfolded layer. Loading a state, and ``train()``, unfold first.
        """
        if self._unfolded is None:
            merged = self.merged_weight()
            self._unfolded = self.weight.detach().clone()
            self.weight.data.copy_(merged)

    def unfold(self) -> None:
        """Take the updates out of the weight, which is then what it was, bit for bit."""
        if self._unfolded is not None:
            self.weight.data.copy_(self._unfolded)
            self._unfolded = None

    def train(self, mode: bool = True) -> LoRAQKV:
        """Set the mode; training needs the updates apart from the weight."""
        if mode:
            self.unfold()
        super().train(mode)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._unfolded is not None:
            destination[prefix + "weight"] = self._unfolded

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self.unfold()
        super()._load_from_state_dict(*arguments, **named)


def inject_lora(
    network: nn.Module, rank: int = 4, alpha: float | None = None, blocks: Sequence[int] | None = None
) -> list[str]:
    """Replace linear layers called ``qkv`` inside ``network`` by `LoRAQKV`; return their names.

    Args:
        network: changed in place.
        rank: see `LoRAQKV`, as ``alpha``.
        alpha: see there.
        blocks: indices of the blocks (``blocks.<index>.`` in the layer's name) to adapt; None for all layers.

    Raises:
        ValueError: there is no such layer or block, or it is adapted already.
    """
    names = qkv_layers(network, blocks)
    for name in names:
        replace_layer(network, name, LoRAQKV.from_linear(network.get_submodule(name), rank, alpha))  # type: ignore[arg-type]
    return names


def merge_lora(network: nn.Module) -> list[str]:
    """Replace every `LoRAQKV` inside ``network`` by the plain layer it amounts to, for good; return their names."""
    found = _lora_layers(network)
    for name, layer in found.items():
        replace_layer(network, name, layer.merged())
    return list(found)


def fold_lora(network: nn.Module) -> list[str]:
    """`LoRAQKV.fold` every layer of ``network``; return their names. `unfold_lora` takes it back."""
    found = _lora_layers(network)
    for layer in found.values():
        layer.fold()
    return list(found)


def unfold_lora(network: nn.Module) -> list[str]:
    """`LoRAQKV.unfold` every layer of ``network``: all weights are what they were, bit for bit; return their names."""
    found = _lora_layers(network)
    for layer in found.values():
        layer.unfold()
    return list(found)


def lora_state(network: nn.Module) -> dict[str, Tensor]:
    """Return copies, on the CPU, of the low-rank updates alone; 0.6 MB for Segment Anything's ViT-B at rank 4.

    Names are those of ``network.state_dict()``. The scale (``alpha``) is an argument, not a weight: keep it, too.
    """
    return {name: weight.detach().cpu().clone().contiguous() for name, weight in _lora_weights(network).items()}


def load_lora_state(network: nn.Module, state: Mapping[str, Tensor], source: str = "the given updates") -> None:
    """Load what `lora_state` returned; everything else is left as it is.

    Raises:
        InputError: the updates have another rank or width, or belong to other blocks; names and shapes are told.
    """
    own = _lora_weights(network)
    check(state, own, source, REMEDY)
    folded = [layer for layer in _lora_layers(network).values() if layer._unfolded is not None]
    for layer in folded:
        layer.unfold()
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(state[name])
    for layer in folded:
        layer.fold()


def qkv_layers(network: nn.Module, blocks: Sequence[int] | None = None) -> list[str]:
    """Return the names of the plain linear layers called ``qkv``, of the chosen blocks.

    Raises:
        ValueError: there are none, a chosen block has none, or one is adapted already.
    """
    layers = {n: part for n, part in network.named_modules() if n.endswith("qkv") and isinstance(part, nn.Linear)}
    if not layers:
        raise ValueError(f"{type(network).__name__} has no linear layer called qkv to adapt.")
    adapted = [name for name, part in layers.items() if type(part) is not nn.Linear]
    if adapted:
        raise ValueError(f"{adapted[0]} is a {type(layers[adapted[0]]).__name__} already; adapt a network once.")
    if blocks is None:
        return list(layers)
    found = {name: int(match[1]) for name in layers if (match := re.search(r"(?:^|\.)blocks\.(\d+)\.", name))}
    known = sorted(set(found.values()))
    if not blocks or not set(blocks) <= set(known):
        raise ValueError(f"blocks must be some of {known}, got {list(blocks)}.")
    return [name for name, index in found.items() if index in set(blocks)]


def replace_layer(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` where ``network`` has the part called ``name``."""
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, layer)


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a frozen linear layer with this weight (out, in) and a copy of this bias."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


def _lora_layers(network: nn.Module) -> dict[str, LoRAQKV]:
    return {name: part for name, part in network.named_modules() if isinstance(part, LoRAQKV)}


def _lora_weights(network: nn.Module) -> dict[str, Tensor]:
    """The parameters themselves, by their names in the network's state."""
    return {
        f"{name}.{factor}" if name else factor: getattr(layer, factor)
        for name, layer in _lora_layers(network).items()
        for factor in FACTORS
    }
