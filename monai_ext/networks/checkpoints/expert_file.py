# SPDX-License-Identifier: Apache-2.0
"""A low-rank expert as a file: its level, its rank, and the frozen encoder it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn as nn

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.base_hash import base_hash
from monai_ext.networks.checkpoints.bound_weights import BoundWeights
from monai_ext.networks.checkpoints.common import State
from monai_ext.networks.layers.lora import FACTORS, REMEDY
from monai_ext.networks.layers.lora_experts import LoRAExpertsQKV, expert_state, load_expert
from monai_ext.networks.state_match import check

KIND = "expert"


@dataclass(frozen=True)
class ExpertFile:
    """One expert of an encoder with several: 0.6 MB for Segment Anything's ViT-B at rank 4.

    Attributes:
        level: name of the expert, such as ``pixel``.
        rank: of its updates.
        alpha: they are scaled by ``alpha / rank``.
        base: hash of the frozen encoder, see `base_hash`.
        state: its updates, as `expert_state` names them.
        licence: under which it may be used, or what it was made with asks for; empty if nothing is known.
        teacher: what it learnt from, in words; empty if it had no teacher or nothing is known.

    Example:
        >>> from monai_ext.networks.nets.experts_encoder import ExpertsEncoder
        >>> from monai_ext.networks.nets.sam import build_published_encoder
        >>> encoder = ExpertsEncoder(build_published_encoder("vit_tiny", 64), ("image", "pixel"))
        >>> file = ExpertFile.of(encoder, "pixel", licence="Apache-2.0")
        >>> file.level, file.rank, len(file.state)
        ('pixel', 4, 24)
        >>> file.load_into(encoder)
    """

    level: str
    rank: int
    alpha: float
    base: str
    state: State
    licence: str = ""
    teacher: str = ""

    @classmethod
    def of(cls, encoder: nn.Module, level: str, licence: str = "", teacher: str = "") -> ExpertFile:
        """Take one expert out of an encoder (the encoder itself, not the network around it).

        Raises:
            ValueError: there is no such expert, or no experts at all.
        """
        state = expert_state(encoder, level)
        rank, alpha = _scale(encoder, level)
        return cls(level, rank, alpha, base_hash(encoder), state, licence, teacher)

    def write(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file, whole or not at all.

        Raises:
            InputError: another ending.
        """
        notes = {"level": self.level, "rank": str(self.rank), "alpha": repr(self.alpha)}
        notes |= {"licence": self.licence, "teacher": self.teacher}
        BoundWeights(KIND, self.base, self.state, notes).write(path)

    @classmethod
    def read(cls, path: str | Path) -> ExpertFile:
        """Read what `write` wrote.

        Raises:
            InputError: the file is missing, damaged, or no expert.
        """
        weights = BoundWeights.read(path, KIND)
        try:
            rank, alpha = int(weights.notes["rank"]), float(weights.notes["alpha"])
            level = weights.notes["level"]
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path}: its notes must have level, rank and alpha, got {weights.notes}; write it again."
            ) from error
        words = [weights.notes.get(name, "") for name in ("licence", "teacher")]
        return cls(level, rank, alpha, weights.base, weights.state, *words)

    def load_into(self, encoder: nn.Module, name: str | None = None, source: str | None = None) -> None:
        """Load into an encoder's expert; nothing is changed if anything does not fit.

        Args:
            encoder: the encoder itself, with its base weights loaded already.
            name: of its expert; None for the one called like this level.
            source: how errors call this expert.

        Raises:
            ValueError: the encoder has no such expert.
            InputError: this is an expert of another level, rank, alpha, shape or base encoder.
        """
        name = self.level if name is None else name
        source = f"the {self.level} expert" if source is None else source
        own = expert_state(encoder, name)
        if name != self.level:
            raise InputError(f"{source}: is the expert of level {self.level!r}, not {name!r}; give the {name} expert.")
        rank, alpha = _scale(encoder, name)
        if (self.rank, self.alpha) != (rank, alpha):
            raise InputError(
                f"{source}: has rank {self.rank} and alpha {self.alpha:g}, this network {rank} and {alpha:g}; set "
                "lora_rank and lora_alpha to those of the file."
            )
        check(self.state, own, source, REMEDY)
        BoundWeights(KIND, self.base, self.state).check_base(encoder, source)
        load_expert(encoder, name, self.state, source)


def _scale(encoder: nn.Module, name: str) -> tuple[int, float]:
    """Rank and alpha of an expert."""
    layer = next(part for part in encoder.modules() if isinstance(part, LoRAExpertsQKV))
    rank = len(getattr(layer.experts[name], FACTORS[0]))
    return rank, round(layer.scale * rank, 9)  # a product of a quotient
