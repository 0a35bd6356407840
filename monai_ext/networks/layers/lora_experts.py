# SPDX-License-Identifier: Apache-2.0
"""Several named low-rank updates of one frozen query-key-value projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.layers.lora import FACTORS, REMEDY, LowRank, plain_linear, qkv_layers, replace_layer
from monai_ext.networks.state_match import check


class ExpertChange(NamedTuple):
    """What an expert adds to query and value, each (..., dim), scaled; it leaves the key alone."""

    query: Tensor
    value: Tensor


class LoRAExpertsQKV(nn.Linear):
    """A fused query-key-value projection with several low-rank updates, of which one or none is in use.

    Each expert is what `LoRAQKV` has, under ``experts.<name>.``; the frozen weight keeps its name. All start at zero:
    an untrained expert changes nothing, bit for bit. An expert that is not selected is not computed and gets no
    gradient.

    Args:
        in_features: channels of the tokens.
        out_features: three times the channels of query, key and value each.
        names: of the experts.
        rank: rank of their updates.
        alpha: updates are scaled by ``alpha / rank``; None means ``rank``, hence a scale of 1.
        bias: whether the frozen projection has a bias.

    Shape:
        (..., in_features) -> (..., out_features)

    Raises:
        ValueError: no names, one twice, one that is no Python identifier or taken by PyTorch; or as `LoRAQKV`.

    Example:
        >>> layer = LoRAExpertsQKV(16, 48, ("liver", "spleen"), rank=2)
        >>> layer.select("liver")
        >>> layer(torch.rand(1, 5, 16)).shape
        torch.Size([1, 5, 48])
        >>> base, changes = layer.base_and_changes(torch.rand(1, 5, 16))
        >>> base.shape, changes["spleen"].value.shape
        (torch.Size([1, 5, 48]), torch.Size([1, 5, 16]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        names: Sequence[str],
        rank: int = 4,
        alpha: float | None = None,
        bias: bool = True,
    ) -> None:
        _check_names(names)
        experts = {name: _Factors(in_features, out_features, rank) for name in names}
        super().__init__(in_features, out_features, bias=bias)
        self.scale = (rank if alpha is None else alpha) / rank
        self.experts = nn.ModuleDict(experts)
        self.selected: str | None = None

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, names: Sequence[str], rank: int = 4, alpha: float | None = None
    ) -> LoRAExpertsQKV:
        """Take over the weight and bias of ``linear`` (the same tensors, not copies)."""
        layer = cls(linear.in_features, linear.out_features, names, rank, alpha, bias=linear.bias is not None)
        layer.weight = linear.weight
        layer.bias = linear.bias
        return layer

    def forward(self, tokens: Tensor) -> Tensor:
        base = super().forward(tokens)
        return base if self.selected is None else self.factors(self.selected).project(tokens, base, self.scale)

    def base_and_changes(
        self, tokens: Tensor, names: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, ExpertChange]]:
        """Project once without any expert, and give what each expert would add; selection does not matter.

        Args:
            tokens: (..., in_features).
            names: experts to compute; None for all.

        Returns:
            The base projection (..., out_features), and for each name the change of query and of value.
        """
        chosen = [self.factors(name) for name in (self.experts if names is None else names)]
        base = F.linear(tokens, self.weight, self.bias)
        if not chosen:
            return base, {}
        # one pass over the tokens for the first factors of all
        downs = [down for factors in chosen for down in (factors.q_down, factors.v_down)]
        hidden = F.linear(tokens, torch.cat(downs)).split([len(down) for down in downs], dim=-1)
        changes = [
            ExpertChange(F.linear(query, factors.q_up) * self.scale, F.linear(value, factors.v_up) * self.scale)
            for factors, query, value in zip(chosen, hidden[::2], hidden[1::2], strict=True)
        ]
        return base, dict(zip(self.experts if names is None else names, changes, strict=True))

    def select(self, name: str | None) -> None:
        """Put one expert in use, or with None the frozen projection alone.

        Raises:
            ValueError: there is no such expert.
        """
        if name is not None:
            self.factors(name)
        self.selected = name

    def factors(self, name: str) -> LowRank:
        """Return the four factors of an expert.

        Raises:
            ValueError: there is no such expert.
        """
        if name not in self.experts:
            raise ValueError(f"expert must be one of {', '.join(self.experts)}, got {name!r}.")
        expert = self.experts[name]
        return LowRank(*(getattr(expert, factor) for factor in FACTORS))

    def merged_weight(self) -> Tensor:
        """Return the weight (out_features, in_features) with the selected expert in it, without gradients."""
        weight = self.weight.detach()
        if self.selected is None:
            return weight.clone()
        return weight + self.scale * self.factors(self.selected).change().detach()


def inject_experts(
    network: nn.Module,
    names: Sequence[str],
    rank: int = 4,
    alpha: float | None = None,
    blocks: Sequence[int] | None = None,
) -> list[str]:
    """Replace linear layers called ``qkv`` inside ``network`` by `LoRAExpertsQKV`; return the layers' names.

    No expert is selected at first: the network computes what it did.

    Args:
        network: changed in place.
        names: of the experts.
        rank: see `LoRAExpertsQKV`, as ``alpha``.
        alpha: see there.
        blocks: indices of the blocks to adapt, as in `inject_lora`; None for all layers.

    Raises:
        ValueError: a name that cannot be, or no such layer or block, or it is adapted already.
    """
    layers = qkv_layers(network, blocks)
    for layer in layers:
        linear = network.get_submodule(layer)
        replace_layer(network, layer, LoRAExpertsQKV.from_linear(linear, names, rank, alpha))  # type: ignore[arg-type]
    return layers


def select_expert(network: nn.Module, name: str | None) -> None:
    """Put one expert in use in all of ``network``, or with None the frozen network alone.

    Raises:
        ValueError: there is no such expert, or no experts at all.
    """
    for layer in _expert_layers(network).values():
        layer.select(name)


def merge_expert(network: nn.Module, name: str | None) -> list[str]:
    """Replace every `LoRAExpertsQKV` by the plain layer it amounts to with one expert, for good; return their names.

    Raises:
        ValueError: there is no such expert, or no experts at all.
    """
    select_expert(network, name)
    layers = _expert_layers(network)
    for place, layer in layers.items():
        replace_layer(network, place, plain_linear(layer.merged_weight(), layer.bias))
    return list(layers)


def expert_state(network: nn.Module, name: str) -> dict[str, Tensor]:
    """Return copies, on the CPU, of one expert's updates, under the names that `lora_state` would give them.

    Raises:
        ValueError: there is no such expert, or no experts at all.
    """
    return {name: weight.detach().cpu().clone().contiguous() for name, weight in _expert(network, name).items()}


def load_expert(network: nn.Module, name: str, state: Mapping[str, Tensor], source: str = "the given updates") -> None:
    """Load one expert from what `expert_state` or, of a network with one update only, `lora_state` returned.

    Raises:
        ValueError: there is no such expert, or no experts at all.
        InputError: the updates have another rank or width, or belong to other blocks; names and shapes are told.
    """
    own = _expert(network, name)
    check(state, own, source, REMEDY)
    with torch.no_grad():
        for place, weight in own.items():
            weight.copy_(state[place])


class _Factors(nn.Module):
    """The parameters of one expert."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        factors = LowRank.initial(in_features, out_features, rank)
        self.lora_q_down, self.lora_q_up, self.lora_v_down, self.lora_v_up = map(nn.Parameter, factors)


def _check_names(names: Sequence[str]) -> None:
    if isinstance(names, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"names must be one or more different names of experts, got {names!r}.")
    wrong = [name for name in names if not name.isidentifier() or hasattr(nn.ModuleDict, name)]
    if wrong:
        raise ValueError(f"names must be Python identifiers that PyTorch does not use itself, got {wrong[0]!r}.")


def _expert_layers(network: nn.Module) -> dict[str, LoRAExpertsQKV]:
    layers = {name: part for name, part in network.named_modules() if isinstance(part, LoRAExpertsQKV)}
    if not layers:
        raise ValueError(f"{type(network).__name__} has no experts; add them with inject_experts.")
    return layers


def _expert(network: nn.Module, name: str) -> dict[str, Tensor]:
    """An expert's parameters themselves, by the names they would have in a network with one update only."""
    return {
        f"{place}.{factor}" if place else factor: weight
        for place, layer in _expert_layers(network).items()
        for factor, weight in zip(FACTORS, layer.factors(name), strict=True)
    }
