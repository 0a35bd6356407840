# SPDX-License-Identifier: Apache-2.0
"""How a state dict and a network fit together, told by names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from monai_ext.errors import InputError

REMEDY = "use the backbone (sam_type), number of classes, tuning and decoder that the weights were made with."


@dataclass(frozen=True)
class StateMatch:
    """How a state dict and the names and shapes that a network wants fit together."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} keys matched, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.wrong_shape)} of another shape"
        )


def compare(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> StateMatch:
    """Compare names and shapes; ``wanted`` may lie on the meta device."""
    shared = [name for name in wanted if name in state]
    wrong = {name for name in shared if state[name].shape != wanted[name].shape}
    return StateMatch(
        matched=tuple(name for name in shared if name not in wrong),
        missing=tuple(name for name in wanted if name not in state),
        unexpected=tuple(name for name in state if name not in wanted),
        wrong_shape=tuple(name for name in shared if name in wrong),
    )


def check(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str, remedy: str = REMEDY) -> StateMatch:
    """Return `compare`'s result if everything fits.

    Args:
        state: the weights.
        wanted: what the network has.
        source: how the error calls the weights.
        remedy: the error's last words: what to do about it.

    Raises:
        InputError: something does not fit; the first names and shapes of each kind are named.
    """
    match = compare(state, wanted)
    if match.complete:
        return match
    lines = []
    if match.wrong_shape:
        shapes = [f"{n} is {shape_text(state[n])}, must be {shape_text(wanted[n])}" for n in match.wrong_shape[:2]]
        lines.append("another shape: " + ", ".join(shapes))
    if match.missing:
        lines.append("missing: " + ", ".join(f"{n} {shape_text(wanted[n])}" for n in match.missing[:2]))
    if match.unexpected:
        lines.append("unexpected: " + ", ".join(f"{n} {shape_text(state[n])}" for n in match.unexpected[:2]))
    raise InputError(f"{source}: does not fit this network ({match}); {'; '.join(lines)}; {remedy}")


def shape_text(weight: Tensor) -> str:
    """Write a shape as ``3x2``.

    Example:
        >>> import torch
        >>> shape_text(torch.rand(3, 2)), shape_text(torch.tensor(1.0))
        ('3x2', 'scalar')
    """
    return "x".join(str(side) for side in weight.shape) or "scalar"


def first_names(state: Mapping[str, Tensor]) -> str:
    """Name the first three weights with their shapes, for errors about what a file holds."""
    return ", ".join(f"{name} {shape_text(weight)}" for name, weight in list(state.items())[:3])
