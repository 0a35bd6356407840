# SPDX-License-Identifier: Apache-2.0
"""What all importers of published weights share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

State = dict[str, Tensor]
Table = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ImportedState:
    """A published state dict under our names.

    Attributes:
        state: our name -> weight.
        kind: what it is; each importer says which kinds it knows.
        knobs: arguments of the network that these weights fit, as far as names and shapes tell them.
        left_out: published names that have no counterpart, on purpose.
        foundation_only: whether these are the weights that a method starts from, the rest of its network being left
            to train.
        ambiguous: arguments that names and shapes leave open -> the values that fit; ``knobs`` has the likeliest.
    """

    state: State
    kind: str
    knobs: dict[str, object]
    left_out: tuple[str, ...] = ()
    foundation_only: bool = False
    ambiguous: dict[str, tuple[object, ...]] = field(default_factory=dict)


def rename(state: Mapping[str, Tensor], table: Table) -> tuple[State, tuple[str, ...]]:
    """Apply the first row of ``table`` that fits each name; return the new state and the names that none fits.

    Args:
        state: name -> weight.
        table: rows of a pattern at the start of a name and what to put there.

    Example:
        >>> import torch
        >>> table = ((r"image_encoder\\.trunk\\.", "encoder."),)
        >>> rename({"image_encoder.trunk.pos_embed": torch.zeros(1), "memory.x": torch.zeros(1)}, table)
        ({'encoder.pos_embed': tensor([0.])}, ('memory.x',))
    """
    renamed: State = {}
    left_out = []
    for name, weight in state.items():
        row = next((row for row in table if re.match(row[0], name)), None)
        if row is None:
            left_out.append(name)
        else:
            renamed[re.sub(f"^{row[0]}", row[1], name, count=1)] = weight
    return renamed, tuple(left_out)
