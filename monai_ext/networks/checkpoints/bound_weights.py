# SPDX-License-Identifier: Apache-2.0
"""Files of small weights that say which frozen encoder they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch.nn as nn

from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.networks.checkpoints.base_hash import base_hash
from monai_ext.networks.checkpoints.common import State
from monai_ext.networks.checkpoints.reading import read_state

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class BoundWeights:
    """Weights of a part of a network, what they are, and the hash of the frozen encoder they were trained on.

    Kept as safetensors: such a file cannot run code, and its notes can be read without its weights.

    Attributes:
        kind: what they are, such as ``expert``.
        base: from `base_hash`.
        state: name -> weight.
        notes: texts to be kept with them.
    """

    kind: str
    base: str
    state: State
    notes: dict[str, str] = field(default_factory=dict)

    def write(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file, whole or not at all.

        Raises:
            InputError: another ending.
        """
        from safetensors.torch import save_file

        path = Path(path)
        if path.suffix != SUFFIX:
            raise InputError(f"{path}: must end in {SUFFIX}, which keeps the notes with the weights.")
        notes = {**self.notes, "format": _format(self.kind), "base": self.base}
        state = {name: weight.detach().cpu().clone().contiguous() for name, weight in self.state.items()}
        with atomic_write(path) as temporary:
            save_file(state, temporary, metadata=notes)

    @classmethod
    def read(cls, path: str | Path, kind: str) -> BoundWeights:
        """Read what `write` wrote.

        Raises:
            InputError: the file is missing, damaged, or of another kind.
        """
        path = Path(path)
        if path.is_file() and path.suffix != SUFFIX:
            raise InputError(f"{path}: must be a {SUFFIX} file, which says what its weights belong to.")
        state = read_state(path)  # all that can be wrong with a file is told here
        notes = _notes(path)
        found = notes.pop("format", "")
        if found != _format(kind) or "base" not in notes:
            raise InputError(
                f"{path}: is no file of kind {kind!r} ({found or 'it has no notes'}); choose another file."
            )
        return cls(kind, notes.pop("base"), state, notes)

    def check_base(self, encoder: nn.Module, source: str) -> None:
        """Refuse an encoder with other frozen weights than these were trained on.

        Args:
            encoder: the image encoder itself.
            source: how the error calls the weights.

        Raises:
            InputError: it is another one.
        """
        own = base_hash(encoder)
        if own != self.base:
            raise InputError(
                f"{source}: was trained on another frozen encoder (hash {self.base[:12]}, this network's {own[:12]}); "
                "load the Segment Anything weights it was trained with (pretrained) first."
            )


def _format(kind: str) -> str:
    return f"monai_ext.{kind}.1"


def _notes(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
